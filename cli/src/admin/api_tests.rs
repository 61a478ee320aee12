use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server on the loopback that gives its answers in order, and keeps the first lines of what it was asked.
struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    async fn with(answers: &'static [(u16, &'static str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        crate::runtime::start(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (status, body) in answers {
                let mut request = Vec::new();
                // Bodies of these tests come in the same packet as their heads.
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut bytes = [0; 4096];
                    let count = stream.read(&mut bytes).await.unwrap();
                    request.extend_from_slice(&bytes[..count]);
                }
                let text = String::from_utf8(request).unwrap();
                kept.lock().unwrap().push(text.lines().next().unwrap().to_owned());
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\netag: \"7\"\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all((head + body).as_bytes()).await.unwrap();
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[test]
fn lists_are_read_page_after_page_over_one_connection() {
    crate::runtime::block_on(async {
        // A broker that is silent for one page only is missing in the whole.
        let fake = Fake::with(&[
            (200, r#"{"items":[1,2],"next_cursor":"a/b","unreachable":[{"broker":"b","reason":"away"}]}"#),
            (200, r#"{"items":[3],"next_cursor":"c","unreachable":[{"broker":"b","reason":"away still"}]}"#),
            (200, r#"{"items":[4],"next_cursor":null}"#),
        ])
        .await;
        let whole = Api::new(&fake.address).list("/topics").await.unwrap();
        assert_eq!((whole.items, whole.next_cursor), (vec![1.into(), 2.into(), 3.into(), 4.into()], None));
        assert_eq!(whole.unreachable, [serde_json::json!({"broker": "b", "reason": "away"})]);
        let asked = ["", "&cursor=a%2Fb", "&cursor=c"];
        assert_eq!(fake.asked(), asked.map(|rest| format!("GET /api/v1/topics?limit=1000{rest} HTTP/1.1")));
    });
}

#[test]
fn a_problem_keeps_what_the_server_said() {
    crate::runtime::block_on(async {
        let problem = r#"{"type":"t","title":"Too many","status":422,"detail":"queues is 0; it must be 1 to 1024",
            "code":"illegal_value","field":"queues","value":0,"limit":1024}"#;
        let fake = Fake::with(Box::leak(Box::new([(422, &*Box::leak(problem.to_owned().into_boxed_str()))]))).await;
        let error = Api::new(&fake.address).post("/topics", &serde_json::json!({})).await.expect_err("it is refused");
        assert_eq!(error.to_string(), "queues is 0; it must be 1 to 1024 (illegal_value)");
        assert_eq!(crate::exit::Failure::from(error).exit, crate::exit::Exit::Refused);
        assert_eq!(fake.asked(), ["POST /api/v1/topics HTTP/1.1"]);
    });
}

#[test]
fn another_server_and_no_server_are_told_apart() {
    crate::runtime::block_on(async {
        let fake = Fake::with(&[(404, "<html>")]).await;
        let error = Api::new(&fake.address).get("/topics").await.expect_err("it is not ours");
        assert!(matches!(error, ApiError::NotOurs { .. }), "{error}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Api::new(&address).get("/topics").await.expect_err("nobody listens");
        assert_eq!(crate::exit::Failure::from(error).exit, crate::exit::Exit::Unreachable);
    });
}

#[test]
fn names_become_one_segment_of_a_path() {
    assert_eq!(encode("%DLQ%billing"), "%25DLQ%25billing");
    assert_eq!(encode("a|b/c ü"), "a%7Cb%2Fc%20%C3%BC");
    assert_eq!(encode("plain-name_1.~"), "plain-name_1.~");
}
