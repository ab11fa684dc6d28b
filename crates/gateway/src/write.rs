//! JSON out of a message.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Serializer;

use crate::{Method, Refusal};

impl Method {
    /// An answer, encoded, as the JSON of a whole body.
    ///
    /// # Errors
    /// The bytes are no such message.
    pub fn write(&self, message: Bytes) -> Result<Vec<u8>, Refusal> {
        let message = self.decode(message)?;
        let mut json = Vec::new();
        write(&message, &mut json)?;
        Ok(json)
    }

    /// An answer, encoded, as a line of a stream.
    ///
    /// # Errors
    /// The bytes are no such message.
    pub fn write_line(&self, message: Bytes) -> Result<Vec<u8>, Refusal> {
        let message = self.decode(message)?;
        let mut json = br#"{"result":"#.to_vec();
        write(&message, &mut json)?;
        Ok(line(json))
    }

    fn decode(&self, message: Bytes) -> Result<DynamicMessage, Refusal> {
        DynamicMessage::decode(self.response.clone(), message)
            .map_err(|error| Refusal::new(13, error.to_string()))
    }
}

fn write(message: &DynamicMessage, json: &mut Vec<u8>) -> Result<(), Refusal> {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(&mut Serializer::new(json), &options)
        .map_err(|error| Refusal::new(13, error.to_string()))
}

impl Refusal {
    /// The body of an answer.
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The last line of a stream.
    pub fn line(&self) -> Vec<u8> {
        let mut json = br#"{"error":"#.to_vec();
        json.extend(self.body());
        line(json)
    }
}

/// Ends a line. In lines, and only there, the real gateway hides the characters that HTML knows.
fn line(mut json: Vec<u8>) -> Vec<u8> {
    json.extend(b"}\n");
    let is_plain = |text: &str| !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']);
    match std::str::from_utf8(&json) {
        Ok(text) if !is_plain(text) => text
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026")
            .replace('\u{2028}', "\\u2028")
            .replace('\u{2029}', "\\u2029")
            .into_bytes(),
        _ => json,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::etcdserverpb::{
        AlarmMember, AlarmResponse, Member, MemberListResponse, RangeResponse, ResponseHeader, WatchResponse,
    };
    use proto::mvccpb::KeyValue;

    use super::*;

    fn json(path: &str, message: &impl Message) -> String {
        let method = Method::at(path).unwrap();
        String::from_utf8(method.write(message.encode_to_vec().into()).unwrap()).unwrap()
    }

    #[test]
    fn defaults_are_left_out_and_long_numbers_are_strings() {
        assert_eq!(json("/v3/kv/range", &RangeResponse::default()), "{}");
        let range = RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                revision: -2,
                ..Default::default()
            }),
            kvs: vec![KeyValue {
                key: "foo".into(),
                ..Default::default()
            }],
            more: true,
            count: 3,
        };
        assert_eq!(
            json("/v3/kv/range", &range),
            r#"{"header":{"cluster_id":"18446744073709551615","revision":"-2"},"kvs":[{"key":"Zm9v"}],"more":true,"count":"3"}"#
        );
    }

    #[test]
    fn enums_have_names_and_names_are_those_of_the_api() {
        let alarms = AlarmResponse {
            alarms: vec![
                AlarmMember {
                    member_id: 5,
                    alarm: 1,
                },
                AlarmMember {
                    member_id: 6,
                    alarm: 77,
                },
            ],
            ..Default::default()
        };
        assert_eq!(
            json("/v3/maintenance/alarm", &alarms),
            r#"{"alarms":[{"memberID":"5","alarm":"NOSPACE"},{"memberID":"6","alarm":77}]}"#
        );
        let members = MemberListResponse {
            members: vec![Member {
                id: 5,
                peer_ur_ls: vec!["http://a".into()],
                is_learner: true,
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            json("/v3/cluster/member/list", &members),
            r#"{"members":[{"ID":"5","peerURLs":["http://a"],"isLearner":true}]}"#
        );
    }

    #[test]
    fn a_line_holds_a_result_or_an_error_without_html() {
        let method = Method::at("/v3/watch").unwrap();
        let response = WatchResponse {
            cancel_reason: "a<b>&\"c\"".into(),
            ..Default::default()
        };
        let line = method.write_line(response.encode_to_vec().into()).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"result\":{\"cancel_reason\":\"a\\u003cb\\u003e\\u0026\\\"c\\\"\"}}\n"
        );
        let refusal = Refusal::new(14, "etcdserver: no leader");
        assert_eq!(
            String::from_utf8(refusal.line()).unwrap(),
            "{\"error\":{\"code\":14,\"message\":\"etcdserver: no leader\"}}\n"
        );
    }
}
