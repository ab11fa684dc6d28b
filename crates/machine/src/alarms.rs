//! Alarms: conditions that every member knows of and honours from the same entry on.

use std::collections::BTreeSet;

use bytes::Bytes;
use mvcc::{Head, Table};
use prost::Message;
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction};

use crate::RestoreError;

/// The active alarms.
///
/// In the table an alarm is its own key: the `AlarmMember` message, with nothing as value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Type, then member.
    active: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// Takes a row of the table.
    pub(crate) fn load(&mut self, key: &Bytes) -> Result<(), RestoreError> {
        let alarm =
            AlarmMember::decode(&key[..]).map_err(|error| RestoreError::new(Table::Alarm, key, error))?;
        self.active.insert((alarm.alarm, alarm.member_id));
        Ok(())
    }

    /// Whether any member has an alarm of this type.
    pub fn any(&self, alarm: AlarmType) -> bool {
        self.of_type(alarm as i32).next().is_some()
    }

    /// The alarms of one type, or all of them for `NONE`.
    pub fn list(&self, alarm: AlarmType) -> Vec<AlarmMember> {
        self.matching(alarm as i32)
    }

    /// Carries out a request and answers the alarms it names. What `ACTIVATE` and `DEACTIVATE` name
    /// is one exact pair of member and type: member 0 does not mean "all".
    pub(crate) fn apply(&mut self, head: &mut Head, request: &AlarmRequest) -> Vec<AlarmMember> {
        let pair = (request.alarm, request.member_id);
        let row = message(&pair);
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.matching(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if self.active.insert(pair) {
                    head.table_put(Table::Alarm, &row.encode_to_vec(), b"");
                }
                vec![row]
            }
            Ok(AlarmAction::Deactivate) if self.active.remove(&pair) => {
                head.table_delete(Table::Alarm, &row.encode_to_vec());
                vec![row]
            }
            _ => vec![],
        }
    }

    fn matching(&self, alarm: i32) -> Vec<AlarmMember> {
        match alarm {
            0 => self.active.iter().map(message).collect(),
            alarm => self.of_type(alarm).collect(),
        }
    }

    fn of_type(&self, alarm: i32) -> impl Iterator<Item = AlarmMember> {
        self.active.range((alarm, 0)..=(alarm, u64::MAX)).map(message)
    }
}

fn message(&(alarm, member_id): &(i32, u64)) -> AlarmMember {
    AlarmMember { member_id, alarm }
}
