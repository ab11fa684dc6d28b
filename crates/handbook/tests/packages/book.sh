# The book, rendered: each page is there, and what links to a page of the book finds it.
mdbook build docs/book -d "$HERE/book"
for page in docs/book/src/*.md; do
    name=$(basename "$page" .md)
    [ "$name" = SUMMARY ] || test -s "$HERE/book/$name.html"
done
grep -q 'etcdctl' "$HERE/book/first-steps.html"
cd "$HERE/book"
grep -oh 'href="[a-z-]*\.html' ./*.html | cut -d'"' -f2 | sort -u | xargs ls
