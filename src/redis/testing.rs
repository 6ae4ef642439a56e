//! What the tests of this module share.

use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use super::client::Client;
use super::service::Service;
use crate::config::load_str;
use crate::net::{Target, dial};
use crate::wire::resp::encode;

/// A client of a service of one node, and the other end of its socket.
pub async fn client() -> (Rc<Client>, std::net::TcpStream) {
    let text = "[[redis.service]]\nname = \"r\"\nnodes = [\"r1\"]\nlisten = [\"127.0.0.1:6380\"]\n";
    let mut config = load_str(text, "f.toml", Path::new(".")).expect("it is right").config;
    let service = Service::new(config.redis.remove(0), Default::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let stream = dial(&Target { host: "127.0.0.1".into(), port }).await.expect("a connection");
    let (far, _) = listener.accept().expect("it is dialled");
    (Client::new(1, service, stream, None, SystemTime::now(), 0), far)
}

/// A request of words without spaces.
pub fn request(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out, &line.split(' ').collect::<Vec<_>>());
    out
}
