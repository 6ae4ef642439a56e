//! What Sentinels say: which primaries they watch, who follows those, and which other Sentinels there are.

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{TIMEOUT, Wish, endpoint, host_and_port};

/// Sentinels listen there unless told otherwise.
const PORT: u16 = 26379;
/// Bytes of one answer: those of hundreds of nodes stay far below.
const LARGEST_ANSWER: usize = 4 << 20;
/// The variable with the Sentinels' own password, as redis-cli names it.
pub(super) const SENTINEL_VARIABLE: &str = "REDISCLI_AUTH";
/// The variable with the servers' password.
pub(super) const SERVER_VARIABLE: &str = "REDIS_PASSWORD";

/// A primary by its name, with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) primary: String,
    pub(super) replicas: Vec<String>,
    pub(super) sentinels: Vec<String>,
    /// Its servers ask for a password.
    pub(super) needs_password: bool,
    /// So do the Sentinels.
    pub(super) sentinels_need_password: bool,
}

/// Asks the Sentinels that were named; what they tell apart is told to the user.
pub(super) async fn look(wish: &Wish, notes: &mut Vec<String>) -> Result<Vec<Group>, String> {
    let mut groups: Vec<Group> = Vec::new();
    let mut heard = Vec::new();
    for text in &wish.sentinels {
        let (host, port) = host_and_port(text, PORT)?;
        let at = endpoint(&host, port);
        let asked =
            timeout(TIMEOUT, ask(&host, port)).await.unwrap_or_else(|_| Err(format!("no answer within {TIMEOUT:?}")));
        let (address, found) = asked.map_err(|why| format!("Sentinel {at}: {why}"))?;
        heard.push((at, address));
        for group in found {
            match groups.iter_mut().find(|other| other.name == group.name) {
                Some(other) => {
                    if other.primary != group.primary {
                        let (one, two) = (&other.primary, &group.primary);
                        notes
                            .push(format!("the Sentinels name different primaries of {}: {one} and {two}", group.name));
                    }
                    let is_new = |sentinel: &String| !other.sentinels.contains(sentinel);
                    let more: Vec<_> = group.sentinels.into_iter().filter(is_new).collect();
                    other.sentinels.extend(more);
                }
                None => groups.push(group),
            }
        }
    }
    if groups.is_empty() {
        return Err("the Sentinels watch no primary".to_owned());
    }
    for group in &mut groups {
        // Those that were named are written as they were.
        group.sentinels.retain(|sentinel| !heard.iter().any(|(at, address)| sentinel == at || sentinel == address));
        let named = heard.iter().map(|(at, _)| at.clone());
        group.sentinels = named.chain(std::mem::take(&mut group.sentinels)).collect();
        group.sentinels.dedup();
        if group.sentinels.len() < 3 {
            let count = group.sentinels.len();
            notes.push(format!(
                "{}: {count} Sentinel(s) are few; a majority has to agree, so that three are the least",
                group.name
            ));
        }
        let (host, port) = host_and_port(&group.primary, 6379)?;
        match timeout(TIMEOUT, needs_password(&host, port)).await {
            Ok(Ok(needs)) => group.needs_password = needs,
            _ => notes.push(format!("{}: the primary {} cannot be asked from here", group.name, group.primary)),
        }
    }
    Ok(groups)
}

/// A connection that says one thing at a time.
struct Talk {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Talk {
    async fn open(host: &str, port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// An answer, or the server's error.
    async fn say(&mut self, words: &[&str]) -> Result<OwnedFrame, String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        loop {
            if let Some((frame, length)) = decode(&self.received).map_err(|error| error.to_string())? {
                self.received.drain(..length);
                return match frame {
                    OwnedFrame::Error(error) => Err(error),
                    frame => Ok(frame),
                };
            }
            if self.received.len() > LARGEST_ANSWER {
                return Err("an answer that does not end".to_owned());
            }
            let mut part = [0; 16384];
            let count = self.stream.read(&mut part).await.map_err(|error| error.to_string())?;
            if count == 0 {
                return Err("the connection was closed".to_owned());
            }
            self.received.extend_from_slice(part.get(..count).unwrap_or_default());
        }
    }
}

/// The Sentinel's address, and what it watches.
async fn ask(host: &str, port: u16) -> Result<(String, Vec<Group>), String> {
    let mut talk = Talk::open(host, port).await?;
    let address = talk.stream.peer_addr().map_or_else(|_| endpoint(host, port), |address| address.to_string());
    let mut sentinels_need_password = false;
    let primaries = match talk.say(&["SENTINEL", "MASTERS"]).await {
        Err(why) if why.starts_with("NOAUTH") => {
            sentinels_need_password = true;
            let password = std::env::var(SENTINEL_VARIABLE).map_err(|_| format!("{why} Set {SENTINEL_VARIABLE}."))?;
            talk.say(&["AUTH", &password]).await?;
            talk.say(&["SENTINEL", "MASTERS"]).await?
        }
        answered => answered?,
    };
    let mut groups = Vec::new();
    for primary in maps(&primaries) {
        let (Some(name), Some(at)) = (value(&primary, "name"), address_of(&primary)) else { continue };
        // Since Redis 5; before that by the older word.
        let replicas = match talk.say(&["SENTINEL", "REPLICAS", &name]).await {
            Ok(frame) => frame,
            Err(_) => talk.say(&["SENTINEL", "SLAVES", &name]).await?,
        };
        let others = talk.say(&["SENTINEL", "SENTINELS", &name]).await?;
        groups.push(Group {
            name,
            primary: at,
            replicas: maps(&replicas).iter().filter_map(|map| address_of(map)).collect(),
            sentinels: maps(&others).iter().filter_map(|map| address_of(map)).collect(),
            needs_password: false,
            sentinels_need_password,
        });
    }
    Ok((address, groups))
}

async fn needs_password(host: &str, port: u16) -> Result<bool, String> {
    let mut talk = Talk::open(host, port).await?;
    match talk.say(&["PING"]).await {
        Err(why) if why.starts_with("NOAUTH") => Ok(true),
        Err(why) if why.starts_with("LOADING") => Ok(false),
        answered => answered.map(|_| false),
    }
}

/// Lists of keys and values.
fn maps(frame: &OwnedFrame) -> Vec<Vec<String>> {
    let OwnedFrame::Array(entries) = frame else { return Vec::new() };
    let lists = entries.iter().filter_map(|entry| match entry {
        OwnedFrame::Array(words) => Some(words.iter().map(|word| text(word).unwrap_or_default()).collect()),
        _ => None,
    });
    lists.collect()
}

fn text(frame: &OwnedFrame) -> Option<String> {
    match frame {
        OwnedFrame::BulkString(bytes) | OwnedFrame::SimpleString(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        _ => None,
    }
}

fn value(map: &[String], key: &str) -> Option<String> {
    map.chunks_exact(2).find_map(|pair| match pair {
        [name, value] if name == key => Some(value.clone()),
        _ => None,
    })
}

fn address_of(map: &[String]) -> Option<String> {
    let port = value(map, "port")?.parse().ok()?;
    Some(endpoint(&value(map, "ip")?, port))
}
