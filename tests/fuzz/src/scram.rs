//! SCRAM: either side with any messages, and a right exchange of which something was changed on its way.

use forebay::wire::pg::scram::{Keys, ScramClient, ScramServer, Verifier, derive};

use super::Choices;

const PASSWORD: &[u8] = b"a password";
const SALT: &[u8] = b"0123456789abcdef";
const NONCES: [[u8; 18]; 2] = [[4; 18], [5; 18]];

/// The server's side: nobody who does not know the password gets in.
pub(super) fn server(data: &[u8]) {
    let mut choices = Choices(data);
    let (first, last) = (choices.part(), choices.part());
    let verifier = Verifier { iterations: 1, salt: SALT.to_vec(), stored_key: [2; 32], server_key: [3; 32] };
    for server in [ScramServer::new(&verifier, NONCES[1]), ScramServer::mock(&[7; 32], "app", NONCES[1])] {
        match server.first(first) {
            Err(error) => assert!(!error.to_string().is_empty()),
            Ok(challenge) => {
                assert!(challenge.message().starts_with(b"r="));
                let error = challenge.last(last).expect_err("nobody knows this password");
                assert!(!error.to_string().is_empty());
            }
        }
    }
    if let Ok(text) = std::str::from_utf8(first)
        && let Some(verifier) = Verifier::parse(text)
    {
        assert_eq!(Verifier::parse(&verifier.format()), Some(verifier));
    }
}

/// The client's side: no server that does not know the verifier is believed. A `@` stands for the client's nonce.
pub(super) fn client(data: &[u8]) {
    let mut choices = Choices(data);
    let (first, last) = (choices.part(), choices.part());
    let client = ScramClient::new(NONCES[0]);
    let nonce = client.first().strip_prefix(b"n,,n=,r=").expect("as PostgreSQL's clients write it").to_vec();
    let mut pieces = first.split(|byte| *byte == b'@');
    let mut written = pieces.next().unwrap_or_default().to_vec();
    pieces.for_each(|piece| written.extend([nonce.as_slice(), piece].concat()));
    match client.challenge(&written) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(challenge) => {
            assert!(challenge.iterations() >= 1);
            let proof = challenge.respond(&Keys { client_key: [5; 32], server_key: [6; 32] });
            assert!(proof.verify(last).is_err(), "nobody knows this key");
        }
    }
}

/// Changes a message by what the choices say: nothing, most of the time.
fn on_its_way(message: &[u8], choices: &mut Choices<'_>) -> Vec<u8> {
    let mut message = message.to_vec();
    for _ in 0..choices.byte() % 4 {
        let at = choices.up_to(message.len());
        match choices.byte() % 5 {
            0 if at < message.len() => message[at] = choices.byte(),
            1 => message.insert(at, choices.byte()),
            2 if at < message.len() => drop(message.remove(at)),
            3 => message.truncate(at),
            _ => {
                let text = choices.part();
                message.splice(at..at, text.iter().copied());
            }
        }
    }
    message
}

/// Whoever accepts has seen what the other side has sent: a change of any byte is found.
pub(super) fn exchange(data: &[u8]) {
    let mut choices = Choices(data);
    let is_right = choices.byte() & 1 == 0;
    let verifier = Verifier::derive(PASSWORD, SALT, 1);

    let client = ScramClient::new(NONCES[0]);
    let client_first = client.first().to_vec();
    let heard_first = on_its_way(&client_first, &mut choices);
    let Ok(asked) = ScramServer::new(&verifier, NONCES[1]).first(&heard_first) else {
        assert_ne!(heard_first, client_first, "a right message is refused");
        return;
    };
    let server_first = asked.message().to_vec();
    let heard_challenge = on_its_way(&server_first, &mut choices);
    let challenge = match client.challenge(&heard_challenge) {
        Ok(challenge) if challenge.iterations() <= 4 => challenge,
        // More rounds take too long here.
        Ok(_) => return,
        Err(_) => {
            assert!(heard_first != client_first || heard_challenge != server_first, "a right message is refused");
            return;
        }
    };
    let password = if is_right { PASSWORD } else { b"another password" };
    let keys = derive(password, challenge.salt(), challenge.iterations());
    let proof = challenge.respond(&keys);
    let client_final = proof.message().to_vec();
    let heard_final = on_its_way(&client_final, &mut choices);
    let is_unchanged = heard_first == client_first && heard_challenge == server_first && heard_final == client_final;
    match asked.last(&heard_final) {
        Ok(done) => {
            assert!(is_right, "a wrong password is accepted");
            assert!(is_unchanged, "a changed exchange is accepted");
            assert_eq!(done.client_key, keys.client_key);
            let heard_last = on_its_way(&done.server_final, &mut choices);
            match proof.verify(&heard_last) {
                // RFC 5802 allows extensions behind the signature.
                Ok(()) => assert!(
                    heard_last == done.server_final
                        || heard_last.starts_with(&[&done.server_final, &b","[..]].concat()),
                    "a server is believed that did not sign"
                ),
                Err(_) => assert_ne!(heard_last, done.server_final, "the right server is not believed"),
            }
        }
        Err(_) => {
            assert!(!is_right || !is_unchanged, "the right password is refused");
            assert!(proof.verify(choices.part()).is_err(), "a server is believed that has refused");
        }
    }
}
