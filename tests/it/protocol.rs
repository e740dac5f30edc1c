//! The wire, to the byte: every message of the protocol as a transcript written by hand, both ways, so that
//! the two sides cannot be wrong together.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use time::OffsetDateTime;
use tunnel_agent::TunnelId;
use tunnel_agent::unversioned::protocol::{
    BodyEncoding, DecodedAnswer, Envelope, Handshake, MalformedRequest, RequestId, RequestMessage,
    ResponseMessage, answer, request,
};

const TUNNEL_ID: &str = "agent_550e8400-e29b-41d4-a716-446655440000_prod";

fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

fn at() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(1_739_650_129_472_112_000).unwrap()
}

/// Reads a `request` envelope and hands it to `look`.
fn with_request(frame: &str, look: impl FnOnce(Result<RequestMessage<'_>, MalformedRequest>)) {
    let envelope = Envelope::parse(frame).expect("an envelope");
    assert_eq!(envelope.message_type, "request");
    let payload = envelope.payload();
    look(request::decode(&envelope, payload.as_deref()));
}

fn id(json: &str) -> Option<RequestId> {
    let frame = format!(r#"{{"message_type":"error","id":{json},"payload":""}}"#);
    Envelope::parse(&frame).unwrap().id
}

// ---------------------------------------------------------------------------------------- agent to gateway

#[test]
fn the_handshake_is_written_as_documented() {
    let tunnel_id: TunnelId = TUNNEL_ID.parse().unwrap();
    let expected = r#"{"tunnel_id":"agent_550e8400-e29b-41d4-a716-446655440000_prod","agent_version":"0.1.0","capabilities":["id","base64","mux/2","url"],"instance":"0c5b1a4e-0000-4000-8000-000000000000","slot":1"#;
    let handshake = |name| {
        let handshake = Handshake::encode(&tunnel_id, "0c5b1a4e-0000-4000-8000-000000000000", 1, name);
        String::from_utf8(handshake).unwrap()
    };
    assert_eq!(handshake(None), format!("{expected}}}"));
    let name = "shop".parse().unwrap();
    assert_eq!(handshake(Some(&name)), format!(r#"{expected},"name":"shop"}}"#));
    let wanted = |name: &str| Handshake::decode(&format!(r#"{expected},"name":"{name}"}}"#)).unwrap().name;
    assert_eq!(wanted("shop"), Some(name));
    // What cannot be a name is as good as none.
    assert_eq!(wanted("Shop!"), None);
    assert_eq!(Handshake::decode(&format!(r#"{expected},"name":[5]}}"#)).unwrap().name, None);
}

#[track_caller]
fn check_response(id: Option<RequestId>, status: u16, pairs: &[(&str, &[u8])], body: &[u8], expected: &str) {
    let mut head = http::Response::new(()).into_parts().0;
    head.status = StatusCode::from_u16(status).unwrap();
    head.headers = headers(pairs);
    let envelope =
        ResponseMessage { id: id.as_ref(), head: &head, body, message: None }.encode(at(), 1 << 20).unwrap();
    assert_eq!(String::from_utf8(envelope).unwrap(), expected);
}

#[test]
fn a_response_of_part_1_is_written_as_documented() {
    check_response(
        None,
        200,
        &[("content-type", b"text/html"), ("set-cookie", b"a=1"), ("set-cookie", b"b=\"2\"")],
        b"<p class=\"x\">\xc3\xa9\n</p>",
        concat!(
            r#"{"message_type":"response","payload":"{\"status\":\"success\",\"message\":\"Request processed successfully\","#,
            r#"\"data\":{\"status_code\":200,\"headers\":[[\"content-type\",\"text/html\"],[\"set-cookie\",\"a=1\"],"#,
            r#"[\"set-cookie\",\"b=\\\"2\\\"\"]],\"body\":\"<p class=\\\"x\\\">é\\n</p>\","#,
            r#"\"timestamp\":\"2025-02-15T20:08:49.472112Z\",\"agent_version\":\"0.1.0\"}}"}"#
        ),
    );
}

#[test]
fn a_response_with_an_error_status_says_so() {
    check_response(
        None,
        404,
        &[],
        b"",
        concat!(
            r#"{"message_type":"response","payload":"{\"status\":\"error\",\"message\":\"Local server responded with status 404 Not Found\","#,
            r#"\"data\":{\"status_code\":404,\"headers\":[],\"body\":\"\","#,
            r#"\"timestamp\":\"2025-02-15T20:08:49.472112Z\",\"agent_version\":\"0.1.0\"}}"}"#
        ),
    );
}

#[test]
fn a_response_carries_its_id_beside_its_status_and_binary_as_base64() {
    check_response(
        id(r#""a\"b""#),
        302,
        &[("x-latin", b"caf\xe9")],
        b"\xff\x00\xfe",
        concat!(
            r#"{"message_type":"response","payload":"{\"id\":\"a\\\"b\",\"status\":\"success\",\"message\":\"Request processed successfully\","#,
            r#"\"data\":{\"status_code\":302,\"headers\":[[\"x-latin\",\"café\"]],\"body\":\"/wD+\",\"body_encoding\":\"base64\","#,
            r#"\"timestamp\":\"2025-02-15T20:08:49.472112Z\",\"agent_version\":\"0.1.0\"}}"}"#
        ),
    );
}

#[test]
fn an_error_is_written_as_documented() {
    let text = "Failed to forward request to local server: Connection refused (os error 111)";
    let plain = r#"{"message_type":"error","payload":"Failed to forward request to local server: Connection refused (os error 111)"}"#;
    assert_eq!(String::from_utf8(answer::encode_error(None, text)).unwrap(), plain);
    let numbered = r#"{"message_type":"error","id":7.0,"payload":"no"}"#;
    assert_eq!(String::from_utf8(answer::encode_error(id("7.0").as_ref(), "no")).unwrap(), numbered);
}

#[test]
fn an_envelope_never_grows_past_its_limit() {
    let head = http::Response::new(()).into_parts().0;
    let body = "\u{1}".repeat(1000);
    let whole = ResponseMessage { id: None, head: &head, body: body.as_bytes(), message: None }
        .encode(at(), usize::MAX)
        .unwrap();
    // JSON inside JSON makes seven bytes of a control character.
    assert!(whole.len() > 7 * body.len());
    let encode = |max| {
        ResponseMessage { id: None, head: &head, body: body.as_bytes(), message: None }.encode(at(), max)
    };
    assert_eq!(encode(whole.len()), Ok(whole.clone()));
    assert_eq!(
        encode(whole.len() - 1),
        Err(tunnel_agent::unversioned::protocol::EnvelopeTooLarge { max: whole.len() - 1 })
    );
}

// ---------------------------------------------------------------------------------------- gateway to agent

#[test]
fn a_request_of_part_1_is_read_as_documented() {
    let frame = concat!(
        r#"{"message_type":"request","payload":"{\"method\":\"POST\",\"path\":\"/a?b=c\",\"body\":\"{\\\"x\\\":\\\"é\\\"}\","#,
        r#"\"headers\":[[\"content-type\",\"application/json\"],[\"x-a\",\"2\"],[\"x-a\",\"1\"]]}"}"#
    );
    with_request(frame, |message| {
        let message = message.unwrap();
        assert_eq!((message.id, &*message.method, &*message.path), (None, "POST", "/a?b=c"));
        assert_eq!(message.body, "{\"x\":\"é\"}".as_bytes());
        let pairs: Vec<_> = message.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(pairs, [("content-type", "application/json"), ("x-a", "2"), ("x-a", "1")]);
    });
}

#[test]
fn requests_are_read_liberally() {
    for frame in [
        r#"{"message_type":"request","payload":"{\"method\":\"GET\",\"path\":\"/\"}"}"#,
        r#"{"message_type":"request","payload":{"method":"GET","path":"/"}}"#,
        r#" { "extra" : [1,{}] , "payload" : { "method" : "GET", "path" : "/", "later" : null } , "message_type" : "request" } "#,
        r#"{"message_type":"request","payload":{"method":"GET","path":"/","body":null,"headers":null,"id":null,"body_encoding":null}}"#,
        r#"{"message_type":"x","message_type":"request","payload":5,"payload":{"method":"GET","path":"/"}}"#,
        r#"{"message_type":"r\u0065quest","payload":{"method":"G\u0045T","path":"\/"}}"#,
    ] {
        with_request(frame, |message| {
            let message = message.unwrap();
            assert_eq!((message.id, &*message.method, &*message.path), (None, "GET", "/"), "{frame}");
            assert!(message.headers.is_empty() && message.body.is_empty(), "{frame}");
        });
    }
}

#[test]
fn ids_are_kept_to_the_letter() {
    for json in
        ["7", "-7", "7.0", "1e3", "123456789012345678901234567890", r#""7""#, r#""a\u0041\"\\""#, r#""""#]
    {
        let frame =
            format!(r#"{{"message_type":"request","payload":{{"id":{json},"method":"GET","path":"/"}}}}"#);
        with_request(&frame, |message| assert_eq!(message.unwrap().id.unwrap().as_json(), json));
    }
}

#[test]
fn bodies_may_be_base64() {
    let frame = r#"{"message_type":"request","payload":{"method":"PUT","path":"/","body":"/wD+","body_encoding":"base64"}}"#;
    with_request(frame, |message| assert_eq!(message.unwrap().body, b"\xff\x00\xfe"));
}

#[test]
fn a_broken_request_is_still_a_request_with_its_id_if_that_can_be_read() {
    for (payload, id) in [
        (r#""""#, None),
        (r#""not json""#, None),
        ("5", None),
        ("null", None),
        ("[]", None),
        ("{}", None),
        (r#"{"id":7}"#, Some("7")),
        (r#"{"id":7,"method":5,"path":"/"}"#, Some("7")),
        (r#"{"method":"GET","path":"/","headers":{"a":"b"},"id":"x"}"#, Some(r#""x""#)),
        (r#"{"method":"GET","path":"/","headers":[["a"]],"id":7}"#, Some("7")),
        (r#"{"method":"GET","path":"/","headers":[["a",1]],"id":7}"#, Some("7")),
        (r#"{"id":7,"method":"GET","method":"GET","path":"/"}"#, Some("7")),
        (r#"{"id":7,"method":"GET","path":"/","body":"\ud800"}"#, Some("7")),
        (r#"{"id":7,"method":"GET","path":"/","body":"=","body_encoding":"base64"}"#, Some("7")),
        (r#"{"id":7,"method":"GET","path":"/","body":"YQ","body_encoding":"base64"}"#, Some("7")),
        (r#"{"id":7,"method":"GET","path":"/","body":"","body_encoding":"gzip"}"#, Some("7")),
        (r#"{"id":{},"method":"GET","path":"/"}"#, None),
        (r#"{"id":true,"method":"GET","path":"/"}"#, None),
        (r#""{\"id\":7,\"method\":\"GET\"""#, Some("7")),
        (r#""{\"id\":7,\"method\":""#, Some("7")),
        (r#""\ud800""#, None),
    ] {
        let frame = format!(r#"{{"message_type":"request","payload":{payload}}}"#);
        with_request(&frame, |message| {
            let malformed = message.expect_err(payload);
            assert_eq!(malformed.id.as_ref().map(RequestId::as_json), id, "{payload}");
        });
    }
    with_request(r#"{"message_type":"request"}"#, |message| assert!(message.is_err()));
    // An ID is sent back even where nothing else is, so it has to be short.
    for (length, is_one) in [(1022, true), (1023, false)] {
        let id = "x".repeat(length);
        let payload = format!(r#"{{"id":"{id}","method":"GET","path":"/"}}"#);
        let frame = format!(r#"{{"message_type":"request","payload":{payload}}}"#);
        with_request(&frame, |message| assert_eq!(message.is_ok(), is_one, "{length}"));
    }
}

#[test]
fn what_is_wrong_is_said_without_what_was_sent() {
    let frame = r#"{"message_type":"request","payload":{"method":"GET","path":"/","headers":"s3cret"}}"#;
    with_request(frame, |message| {
        let reason = message.unwrap_err().reason;
        assert!(!reason.contains("s3cret"), "{reason}");
    });
}

#[test]
fn what_is_no_envelope_is_none() {
    for frame in [
        "",
        "550e8400-e29b-41d4-a716-446655440000",
        "5",
        "null",
        "[]",
        "{}",
        r#"{"payload":{}}"#,
        r#"{"message_type":5,"payload":{}}"#,
        r#"{"message_type":"request","payload":{}"#,
        r#"{"message_type":"request"} x"#,
        "\u{0}",
    ] {
        assert!(Envelope::parse(frame).is_none(), "{frame:?}");
    }
}

#[test]
fn an_error_of_the_gateway_is_its_text() {
    let envelope = Envelope::parse(r#"{"message_type":"error","payload":"go \"away\""}"#).unwrap();
    assert_eq!((&*envelope.message_type, envelope.payload().as_deref()), ("error", Some("go \"away\"")));
}

// ------------------------------------------------------------------------------------ the gateway's own side

#[test]
fn the_gateway_writes_requests_as_documented() {
    let mut head = http::Request::new(()).into_parts().0;
    head.method = Method::PUT;
    head.uri = "/a?b=c".parse().unwrap();
    head.headers = headers(&[("x-a", b"2"), ("x-a", b"1")]);
    let encode = |id: Option<u64>, body: &[u8], encoding| {
        let id = id.map(RequestId::from);
        String::from_utf8(request::encode(id.as_ref(), &head, body, encoding, 1 << 20).unwrap()).unwrap()
    };
    assert_eq!(
        encode(None, b"hi", BodyEncoding::Text),
        r#"{"message_type":"request","payload":"{\"method\":\"PUT\",\"path\":\"/a?b=c\",\"headers\":[[\"x-a\",\"2\"],[\"x-a\",\"1\"]],\"body\":\"hi\"}"}"#
    );
    assert_eq!(
        encode(Some(7), b"\xff", BodyEncoding::Base64),
        r#"{"message_type":"request","payload":"{\"id\":7,\"method\":\"PUT\",\"path\":\"/a?b=c\",\"headers\":[[\"x-a\",\"2\"],[\"x-a\",\"1\"]],\"body\":\"/w==\",\"body_encoding\":\"base64\"}"}"#
    );
}

#[test]
fn the_gateway_reads_answers_and_handshakes() {
    let decode = |frame: &str| DecodedAnswer::decode(&Envelope::parse(frame).unwrap()).unwrap();
    let answer = decode(
        r#"{"message_type":"response","payload":"{\"id\":7,\"status\":\"success\",\"data\":{\"status_code\":201,\"headers\":[[\"x-a\",\"é\"]],\"body\":\"/w==\",\"body_encoding\":\"base64\"}}"}"#,
    );
    assert_eq!(answer.id.unwrap().as_u64(), Some(7));
    let response = answer.result.unwrap();
    assert_eq!((response.status().as_u16(), response.body().as_slice()), (201, b"\xff".as_slice()));
    assert_eq!(response.headers()["x-a"].as_bytes(), "é".as_bytes());

    let answer = decode(r#"{"message_type":"error","id":8,"payload":"no"}"#);
    assert_eq!((answer.id.unwrap().as_u64(), answer.result.unwrap_err().as_str()), (Some(8), "no"));
    assert!(decode(r#"{"message_type":"response","payload":"broken"}"#).result.is_err());
    for payload in
        [r#"{\"id\":9,\"data\":{\"status_code\":\"x\"}}"#, r#"{\"id\":9,\"data\":{\"status_code\":101}}"#]
    {
        let answer = decode(&format!(r#"{{"message_type":"response","payload":"{payload}"}}"#));
        assert!(answer.result.is_err() && answer.id.unwrap().as_u64() == Some(9), "{payload}");
    }

    let handshake =
        Handshake::decode(&format!(r#"{{"tunnel_id":"{TUNNEL_ID}","agent_version":"0.1.0"}}"#)).unwrap();
    assert!(handshake.tunnel_id.expose() == TUNNEL_ID && !handshake.can("id"));
    assert!(Handshake::decode(r#"{"tunnel_id":"agent_x"}"#).is_err());
}

// ------------------------------------------------------------------------------------------- arbitrary bytes

/// Text that is often nearly an envelope.
fn nearly_json() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\"message_type\":",
        "\"request\"",
        "\"payload\":",
        "\"id\":",
        "\"method\":\"GET\"",
        "\"path\":\"/\"",
        "\"headers\":[[\"a\",\"b\"]]",
        "\"body\":\"é\"",
        "\"body_encoding\":\"base64\"",
        "7",
        "-1e9",
        "null",
        "\\u0041",
        "\\ud800",
        " ",
        "\n",
        "{\"message_type\":\"request\",\"payload\":{",
        "}}",
    ]);
    prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
}

fn read_everything(text: &str) {
    let _ = Handshake::decode(text);
    let Some(envelope) = Envelope::parse(text) else { return };
    let payload = envelope.payload();
    let _ = request::decode(&envelope, payload.as_deref());
    let _ = DecodedAnswer::decode(&envelope);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        read_everything(&text);
    }

    #[test]
    fn text_that_is_nearly_an_envelope_never_panics(text in nearly_json()) {
        read_everything(&text);
    }

    #[test]
    fn any_body_comes_back_unchanged(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let head = http::Response::new(()).into_parts().0;
        let envelope = ResponseMessage { id: None, head: &head, body: &body, message: None }.encode(at(), 1 << 20).unwrap();
        let text = String::from_utf8(envelope).unwrap();
        let answer = DecodedAnswer::decode(&Envelope::parse(&text).unwrap()).unwrap();
        prop_assert_eq!(answer.result.unwrap().into_body(), body);
    }
}
