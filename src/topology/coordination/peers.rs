//! When etcd is lost: the instances ask each other, and go on together as long as all of them do.
//!
//! An instance that cannot keep its lease may write on only if every instance that it knows says that it cannot reach
//! etcd either. Who says so promises with it to lead nobody to another primary before that permission has ended, even if
//! etcd comes back to it at once. An instance that the asking one does not know has promised nothing; so no instance
//! leads while one has vanished that does not know it: what each knows stands in etcd without a lease (the roster). One
//! that knows a process which has ended since cannot go on either, and is no matter.
//!
//! Questions and answers are single lines of JSON, signed with a secret that stands in etcd.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::keeper::Keeper;
use super::{Member, View};
use crate::worker::permit::boottime_ns;

/// A question or an answer that is longer is nobody's of ours, bytes.
const LONGEST: u64 = 256 * 1024;
/// What clocks may differ in their pace, of the time that is promised: one in so many.
const DRIFT: u32 = 20;
/// A connection that says nothing for so long is closed.
const PATIENCE: Duration = Duration::from_secs(2);

/// What an instance knows, for whoever leads after it has vanished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roster {
    /// Which others.
    pub(super) knows: BTreeSet<String>,
    /// Its host and its state folder: two processes that have both are one after the other.
    pub(super) place: u64,
    /// Processes before this one, which have ended: whoever needs the word of one of them has no right to go on.
    #[serde(default)]
    pub(super) replaces: BTreeSet<String>,
}

/// May I go on?
#[derive(Debug, Serialize, Deserialize)]
struct Question {
    from: String,
    to: String,
    /// What it goes by.
    records: BTreeMap<String, i64>,
    nonce: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// Of the question.
    nonce: String,
    /// Why not.
    refusal: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    text: String,
    /// Hexadecimal.
    mac: String,
}

impl Signed {
    fn new(secret: &str, purpose: &str, content: &impl Serialize) -> Option<Self> {
        let text = serde_json::to_string(content).ok()?;
        let mac = mac(secret, purpose, &text)?.finalize().into_bytes();
        Some(Self { text, mac: hex(&mac) })
    }

    fn open<T: for<'de> Deserialize<'de>>(line: &str, secret: &str, purpose: &str) -> Option<T> {
        let signed: Signed = serde_json::from_str(line).ok()?;
        mac(secret, purpose, &signed.text)?.verify_slice(&unhex(&signed.mac)?).ok()?;
        serde_json::from_str(&signed.text).ok()
    }
}

fn mac(secret: &str, purpose: &str, text: &str) -> Option<Hmac<Sha256>> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    Some(mac.chain_update(purpose).chain_update([0]).chain_update(text))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()).collect()
}

fn drawn() -> String {
    let mut nonce = [0; 16];
    // A nonce that can be guessed lets old answers be told again: without randomness none is believed.
    match getrandom::fill(&mut nonce) {
        Ok(()) => hex(&nonce),
        Err(_) => String::new(),
    }
}

/// Where the other instances ask this one.
pub(super) struct Door {
    listener: TcpListener,
    pub(super) address: SocketAddr,
}

impl Door {
    /// Opens it where this machine is reached from where etcd is, on any port.
    pub(super) async fn open(at: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Answers for as long as the process lives.
    pub(super) async fn serve(self, keeper: Rc<Keeper>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let keeper = Rc::clone(&keeper);
                    tokio::task::spawn_local(async move { drop(timeout(PATIENCE, keeper.answer(stream)).await) });
                }
                // Too many open files, perhaps.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

impl Keeper {
    async fn answer(&self, stream: TcpStream) -> Option<()> {
        let (line, mut stream) = read_line(stream).await?;
        let view = self.view.borrow().clone();
        let secret = view.secret()?;
        let question: Question = Signed::open(&line, secret, "question")?;
        if !self.is_out_of_touch() {
            // It may be that only the other one has noticed yet.
            self.look_for_etcd().await;
        }
        let view = self.view.borrow().clone();
        let refusal = self.refusal(&view, &question);
        let answer = Signed::new(secret, "answer", &Answer { nonce: question.nonce, refusal })?;
        stream.write_all(format!("{}\n", serde_json::to_string(&answer).ok()?).as_bytes()).await.ok()
    }

    /// Why another instance may not go on; with `None` this one has promised not to disturb it.
    fn refusal(&self, view: &View, question: &Question) -> Option<String> {
        if question.to != view.me {
            return Some("it is another process by now".to_owned());
        }
        if !self.is_out_of_touch() {
            return Some("etcd answers it".to_owned());
        }
        if self.is_leaving.get() {
            return Some("it is about to end".to_owned());
        }
        if view.others().all(|other| other != question.from) {
            return Some("it does not know this instance".to_owned());
        }
        if question.records != view.revisions() {
            return Some("it goes by other decisions".to_owned());
        }
        let time = self.alone_for();
        let until_ns = boottime_ns().saturating_add(nanos(time + time / DRIFT));
        self.change(|view| {
            view.promised.retain(|(to, _)| *to != question.from);
            view.promised.push((question.from.clone(), until_ns));
        });
        None
    }

    /// How long one agreement lasts.
    pub(super) fn alone_for(&self) -> Duration {
        self.lease_time * 3 / 5
    }

    /// Asks everybody who is known; the end of the right to write if all agree, else who does not.
    pub(super) async fn ask_all(&self) -> Result<u64, String> {
        let begun_ns = boottime_ns();
        let view = self.view.borrow().clone();
        let secret = view.secret().ok_or("nothing is known of the others")?;
        let known = self.known();
        let mut asked = Vec::new();
        for other in &known {
            let Some(Some(member)) = view.members().find(|(id, _)| *id == other.as_str()).map(|(_, member)| member)
            else {
                return Err(format!("{}: it has left etcd", view.name(other)));
            };
            asked.push((other, member));
        }
        let limit = self.lease_time / 5;
        let mut questions = Vec::new();
        for (other, member) in asked {
            let question =
                Question { from: view.me.clone(), to: other.clone(), records: view.revisions(), nonce: drawn() };
            let name = view.name(other);
            let secret = secret.to_owned();
            questions.push(tokio::task::spawn_local(async move {
                match timeout(limit, put(&question, &member, &secret)).await {
                    Ok(answered) => answered.map_err(|why| format!("{name}: {why}")),
                    Err(_) => Err(format!("{name}: no answer within {limit:?}")),
                }
            }));
        }
        for question in questions {
            question.await.map_err(|gone| gone.to_string())??;
        }
        Ok(begun_ns.saturating_add(nanos(self.alone_for())))
    }
}

async fn put(question: &Question, member: &Member, secret: &str) -> Result<(), String> {
    if question.nonce.is_empty() {
        return Err("the system has no randomness".to_owned());
    }
    let line = Signed::new(secret, "question", question).and_then(|signed| serde_json::to_string(&signed).ok());
    let line = line.ok_or("it cannot be asked")?;
    let mut stream = TcpStream::connect(&member.peer).await.map_err(|e| e.to_string())?;
    stream.write_all(format!("{line}\n").as_bytes()).await.map_err(|e| e.to_string())?;
    let (answer, _) = read_line(stream).await.ok_or("it says nothing")?;
    let answer: Answer = Signed::open(&answer, secret, "answer").ok_or("it does not know the secret")?;
    match answer.refusal {
        _ if answer.nonce != question.nonce => Err("it answers another question".to_owned()),
        Some(why) => Err(why),
        None => Ok(()),
    }
}

async fn read_line(stream: TcpStream) -> Option<(String, TcpStream)> {
    let mut reader = BufReader::new(stream.take(LONGEST));
    let mut line = String::new();
    reader.read_line(&mut line).await.ok().filter(|_| line.ends_with('\n'))?;
    Some((line, reader.into_inner().into_inner()))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_knows_the_secret_is_believed() {
        let answer = Answer { nonce: "n".to_owned(), refusal: None };
        let line = serde_json::to_string(&Signed::new("secret", "answer", &answer).unwrap()).unwrap();
        let open = |secret, purpose| Signed::open::<Answer>(&line, secret, purpose).map(|answer| answer.nonce);
        assert_eq!(open("secret", "answer").as_deref(), Some("n"));
        assert_eq!(open("other", "answer"), None);
        assert_eq!(open("secret", "question"), None, "a question is no answer");
        assert!(Signed::open::<Answer>(&line.replace("null", "\"\""), "secret", "answer").is_none(), "changed");
    }

    #[test]
    fn hexadecimal_is_read_as_written() {
        assert_eq!(unhex(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!(unhex("0g"), None);
    }
}
