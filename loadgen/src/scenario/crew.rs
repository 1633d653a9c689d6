//! The other workers of a run: each has a thread, and does as the first one says.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Scope, ScopedJoinHandle};

use crate::error::Error;
use crate::report::Findings;

/// What the first worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    WarmUp,
    Measure,
    Stop,
}

/// What a worker found.
pub(crate) struct Part {
    /// Messages of each of its connections.
    pub(crate) counts: Vec<u64>,
    pub(crate) findings: Findings,
}

/// The other workers.
pub(crate) struct Crew<'scope> {
    members: Vec<Member<'scope>>,
}

struct Member<'scope> {
    commands: Sender<Command>,
    answers: Receiver<Result<(), Error>>,
    thread: ScopedJoinHandle<'scope, Option<Part>>,
}

/// A worker's side.
pub(crate) struct Orders {
    commands: Receiver<Command>,
    answers: Sender<Result<(), Error>>,
}

impl Orders {
    /// Tells the first worker that the last step is done.
    pub(crate) fn done(&self) {
        // Without a listener the run has failed, and the next command is to stop.
        let _ = self.answers.send(Ok(()));
    }

    /// The next command, if there is one.
    pub(crate) fn next(&self) -> Option<Command> {
        match self.commands.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Command::Stop),
        }
    }

    /// Waits for the next command.
    pub(crate) fn wait(&self) -> Command {
        self.commands.recv().unwrap_or(Command::Stop)
    }
}

impl<'scope> Crew<'scope> {
    /// Starts `work` on a thread for each of the workers from 1 to `workers - 1`.
    pub(crate) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        workers: u32,
        work: impl Fn(usize, &Orders) -> Result<Part, Error> + Copy + Send + 'scope,
    ) -> Crew<'scope> {
        let member = |worker| {
            let (commands, received) = channel();
            let (answered, answers) = channel();
            let orders = Orders { commands: received, answers: answered };
            let thread = scope.spawn(move || match work(worker, &orders) {
                Ok(part) => Some(part),
                Err(error) => {
                    let _ = orders.answers.send(Err(error));
                    None
                }
            });
            Member { commands, answers, thread }
        };
        Crew { members: (1..workers as usize).map(member).collect() }
    }

    pub(crate) fn tell(&self, command: Command) {
        // One that has ended has answered with its error.
        self.members.iter().for_each(|member| _ = member.commands.send(command));
    }

    /// Waits until each has done its last step.
    ///
    /// # Errors
    /// The first error of a worker.
    pub(crate) fn await_all(&self) -> Result<(), Error> {
        let ended = || Err(Error::new("a worker ended without a word"));
        self.members.iter().try_for_each(|member| member.answers.recv().unwrap_or_else(|_| ended()))
    }

    /// Ends all workers, and returns what each found.
    pub(crate) fn stop(self) -> Vec<Part> {
        self.tell(Command::Stop);
        let members = self.members.into_iter();
        members.filter_map(|member| member.thread.join().expect("a worker does not panic")).collect()
    }
}

/// The connections of each worker, by their numbers.
pub(crate) fn split(connections: u32, workers: u32) -> Vec<Range<u32>> {
    let end = |worker: u32| (u64::from(connections) * u64::from(worker) / u64::from(workers)) as u32;
    (0..workers).map(|worker| end(worker)..end(worker + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_split_evenly() {
        assert_eq!(split(10, 3), [0..3, 3..6, 6..10]);
        assert_eq!(split(u32::MAX, 2), [0..2_147_483_647, 2_147_483_647..u32::MAX]);
        assert_eq!(split(5, 1), [Range { start: 0, end: 5 }]);
    }

    #[test]
    fn workers_do_as_they_are_told_and_errors_come_back() {
        let run = |fails: bool| {
            std::thread::scope(|scope| {
                let crew = Crew::start(scope, 3, |worker, orders| {
                    if fails && worker == 2 {
                        return Err(Error::new("no room"));
                    }
                    orders.done();
                    assert!(matches!(orders.wait(), Command::Measure | Command::Stop));
                    orders.done();
                    Ok(Part { counts: vec![worker as u64], findings: Findings::none() })
                });
                crew.await_all().map_err(|error| error.to_string())?;
                crew.tell(Command::Measure);
                Ok::<_, String>(crew.stop().into_iter().flat_map(|part| part.counts).collect::<Vec<_>>())
            })
        };
        assert_eq!(run(false), Ok(vec![1, 2]));
        assert_eq!(run(true), Err("no room".to_owned()));
    }
}
