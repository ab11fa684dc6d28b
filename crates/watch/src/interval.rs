//! Key intervals, and the question which of them a key lies in.
//!
//! A balanced (AVL) search tree over `(start, end)`. Each node also knows how far its subtree
//! *reaches*, the largest end in it: a subtree that does not reach beyond the key is skipped whole.
//! A look-up costs O(log n) and a little for each interval found, however the intervals nest.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;
use types::KeyRange;

/// The upper end of an interval; ends in order, "no end" last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Open,
}

impl End {
    fn is_behind(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < end.as_ref(),
            End::Open => true,
        }
    }
}

/// A map from interval to a number.
#[derive(Debug, Default)]
pub(crate) struct IntervalTree(Link);

type Link = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    value: usize,
    /// The largest end in this subtree.
    reach: End,
    height: u8,
    /// Smaller intervals, larger intervals.
    kids: [Link; 2],
}

const LEFT: usize = 0;
const RIGHT: usize = 1;

impl IntervalTree {
    /// The value of exactly this interval.
    pub fn get(&self, range: &KeyRange) -> Option<usize> {
        let (start, end) = bounds(range);
        let mut link = &self.0;
        while let Some(node) = link {
            link = match node.compare(&start, &end) {
                Ordering::Equal => return Some(node.value),
                Ordering::Less => &node.kids[LEFT],
                Ordering::Greater => &node.kids[RIGHT],
            };
        }
        None
    }

    /// Adds an interval that is not in the map.
    pub fn insert(&mut self, range: &KeyRange, value: usize) {
        let (start, end) = bounds(range);
        let reach = end.clone();
        let node = Box::new(Node {
            start,
            end,
            value,
            reach,
            height: 1,
            kids: [None, None],
        });
        self.0 = Some(insert(self.0.take(), node));
    }

    /// Takes an interval out of the map.
    pub fn remove(&mut self, range: &KeyRange) {
        let (start, end) = bounds(range);
        self.0 = remove(self.0.take(), &start, &end);
    }

    /// Calls `found` with the value of every interval that `key` lies in.
    pub fn stab(&self, key: &[u8], mut found: impl FnMut(usize)) {
        stab(&self.0, key, &mut found);
    }
}

fn bounds(range: &KeyRange) -> (Bytes, End) {
    let end = match range.end() {
        Bound::Excluded(end) => End::Before(Bytes::copy_from_slice(end)),
        // A single key has its own map; as an interval it would end just behind itself.
        Bound::Included(key) => End::Before([key, b"\0"].concat().into()),
        Bound::Unbounded => End::Open,
    };
    (Bytes::copy_from_slice(range.start()), end)
}

impl Node {
    /// Where `(start, end)` lies, seen from this node.
    fn compare(&self, start: &Bytes, end: &End) -> Ordering {
        (start, end).cmp(&(&self.start, &self.end))
    }

    /// Recomputes what is derived from the kids.
    fn update(&mut self) {
        self.height = 1 + height(&self.kids[LEFT]).max(height(&self.kids[RIGHT]));
        let reaches = self.kids.iter().flatten().map(|kid| &kid.reach);
        self.reach = reaches.fold(&self.end, Ord::max).clone();
    }
}

fn height(link: &Link) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

/// Lifts the kid on `side` above its parent.
fn lift(mut node: Box<Node>, side: usize) -> Box<Node> {
    let Some(mut top) = node.kids[side].take() else {
        return node;
    };
    node.kids[side] = top.kids[1 - side].take();
    node.update();
    top.kids[1 - side] = Some(node);
    top.update();
    top
}

/// Restores the balance of a node one of whose kids has just grown or shrunk by one.
fn balance(mut node: Box<Node>) -> Box<Node> {
    node.update();
    for side in [LEFT, RIGHT] {
        if height(&node.kids[side]) > height(&node.kids[1 - side]) + 1 {
            node.kids[side] = node.kids[side].take().map(|tall| {
                let leans_inward = height(&tall.kids[1 - side]) > height(&tall.kids[side]);
                if leans_inward { lift(tall, 1 - side) } else { tall }
            });
            return lift(node, side);
        }
    }
    node
}

fn insert(link: Link, new: Box<Node>) -> Box<Node> {
    let Some(mut node) = link else { return new };
    let side = if node.compare(&new.start, &new.end) == Ordering::Less {
        LEFT
    } else {
        RIGHT
    };
    node.kids[side] = Some(insert(node.kids[side].take(), new));
    balance(node)
}

fn remove(link: Link, start: &Bytes, end: &End) -> Link {
    let mut node = link?;
    match node.compare(start, end) {
        Ordering::Less => node.kids[LEFT] = remove(node.kids[LEFT].take(), start, end),
        Ordering::Greater => node.kids[RIGHT] = remove(node.kids[RIGHT].take(), start, end),
        Ordering::Equal => match node.kids {
            [None, kid] | [kid, None] => return kid,
            [left, Some(right)] => {
                let (rest, mut next) = take_first(right);
                next.kids = [left, rest];
                node = next;
            }
        },
    }
    Some(balance(node))
}

/// Splits off the smallest node of a subtree.
fn take_first(mut node: Box<Node>) -> (Link, Box<Node>) {
    match node.kids[LEFT].take() {
        None => (node.kids[RIGHT].take(), node),
        Some(left) => {
            let (rest, first) = take_first(left);
            node.kids[LEFT] = rest;
            (Some(balance(node)), first)
        }
    }
}

fn stab(link: &Link, key: &[u8], found: &mut impl FnMut(usize)) {
    let Some(node) = link.as_ref().filter(|node| node.reach.is_behind(key)) else {
        return;
    };
    stab(&node.kids[LEFT], key, found);
    if node.start.as_ref() <= key {
        if node.end.is_behind(key) {
            found(node.value);
        }
        stab(&node.kids[RIGHT], key, found);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Every derived field is right and the tree is in balance.
    fn check(link: &Link) {
        let Some(node) = link else { return };
        node.kids.iter().for_each(check);
        let (left, right) = (height(&node.kids[LEFT]), height(&node.kids[RIGHT]));
        assert!(left.abs_diff(right) <= 1, "out of balance: {left} and {right}");
        assert_eq!(node.height, 1 + left.max(right));
        let reaches = node.kids.iter().flatten().map(|kid| kid.reach.clone());
        assert_eq!(node.reach, reaches.chain([node.end.clone()]).max().unwrap());
    }

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0..3u8, 0..4).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        prop_oneof![
            8 => (key(), key()).prop_map(|(start, end)| KeyRange::Span(start, end)),
            2 => key().prop_map(KeyRange::From),
            1 => Just(KeyRange::All),
        ]
    }

    proptest! {
        #[test]
        fn a_key_finds_the_intervals_that_a_plain_list_finds(
            steps in prop::collection::vec((any::<bool>(), range()), 1..120),
            keys in prop::collection::vec(key(), 1..20),
        ) {
            let mut tree = IntervalTree::default();
            let mut list = BTreeMap::new();
            for (value, (add, range)) in steps.into_iter().enumerate() {
                let id = bounds(&range);
                prop_assert_eq!(tree.get(&range), list.get(&id).map(|&(_, value)| value));
                if add && !list.contains_key(&id) {
                    tree.insert(&range, value);
                    list.insert(id, (range, value));
                } else {
                    tree.remove(&range);
                    list.remove(&id);
                }
                check(&tree.0);
            }
            for key in keys {
                let mut found = Vec::new();
                tree.stab(&key, |value| found.push(value));
                found.sort_unstable();
                let mut expected: Vec<_> =
                    list.values().filter(|(range, _)| range.contains(&key)).map(|&(_, value)| value).collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
