//! One instance has another do something: a key with what is wanted, and one with the answer, each under the lease of
//! whoever made it.

use std::rc::Rc;

use tokio::sync::oneshot;

use super::etcd::{Condition, Deed};
use super::keeper::Keeper;
use super::{Call, View};

/// What is said where no answer comes any more.
const LEFT: &str = "it has left before it answered: whether it was done is not known";

impl Keeper {
    /// Asks; the answer is taken in by [`Keeper::look_for_calls`].
    pub(super) async fn call(&self, number: u64, to: &str, what: &str) {
        let me = self.me();
        let is_there = self.view.borrow().others().any(|other| other == to);
        let put = match is_there {
            true => {
                let key = format!("{}calls/{to}/{me}/{number}", self.prefix);
                let deeds = [Deed::Put { key: &key, value: what, lease: self.lease() }];
                let put = self.etcd.transact(&[Condition::CreatedAt(&key, 0)], &deeds, &key).await;
                // An attempt whose answer was lost may have been heard.
                put.map(drop).map_err(|trouble| format!("{trouble}: whether it was done is not known"))
            }
            false => Err("there is no such instance any more".to_owned()),
        };
        if let Err(why) = put {
            self.answer_own(number, Err(why));
        }
    }

    fn answer_own(&self, number: u64, answer: Result<String, String>) {
        let waiting = self.state.borrow_mut().waiting.remove(&number);
        if let Some((_, reply)) = waiting {
            // Whoever asked may have left.
            drop(reply.send(answer));
        }
    }

    /// Begins what others want, and hands out what they have answered.
    pub(super) fn look_for_calls(self: &Rc<Self>) {
        let view = Rc::new(View::clone(&self.view.borrow()));
        let (answers, calls) = (format!("answers/{}/", view.me), format!("calls/{}/", view.me));
        for (number, entry) in view.below(&answers) {
            let key = format!("{}{answers}{number}", self.prefix);
            if let Ok(number) = number.parse() {
                self.answer_own(number, Ok(entry.value.clone()));
            }
            self.forget(key);
        }
        for (caller, entry) in view.below(&calls) {
            if !self.state.borrow_mut().taken.insert(caller.to_owned()) {
                continue;
            }
            let (reply, told) = oneshot::channel();
            if self.called.send(Call { what: entry.value.clone(), reply }).is_err() {
                continue;
            }
            let (keeper, caller, calls) = (Rc::clone(self), caller.to_owned(), calls.clone());
            tokio::task::spawn_local(async move {
                if let Ok(answer) = told.await {
                    let key = format!("{}answers/{caller}", keeper.prefix);
                    if let Err(trouble) = keeper.etcd.put(&key, &answer, keeper.lease()).await {
                        tracing::warn!(%trouble, caller, "another instance is not answered");
                    }
                }
                keeper.forget(format!("{}{calls}{caller}", keeper.prefix));
            });
        }
        // Those who cannot answer any more.
        let gone: Vec<u64> = {
            let state = self.state.borrow();
            let is_gone = |to: &String| view.lost.is_none() && view.others().all(|other| other != to);
            state.waiting.iter().filter(|(_, (to, _))| is_gone(to)).map(|(number, _)| *number).collect()
        };
        for number in gone {
            self.answer_own(number, Err(LEFT.to_owned()));
        }
        // As long as its caller is there a call is not taken twice, should it be put again.
        let is_there =
            |taken: &String| taken.split_once('/').is_some_and(|(caller, _)| view.others().any(|id| id == caller));
        self.state.borrow_mut().taken.retain(is_there);
    }

    fn forget(self: &Rc<Self>, key: String) {
        let keeper = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Err(trouble) = keeper.etcd.delete(&key).await {
                tracing::debug!(%trouble, key, "goes with its lease");
            }
        });
    }
}
