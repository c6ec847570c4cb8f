//! The second life of a guest's first process: the server, and beside it the control channel on a thread of its own.

use std::{
    cell::RefCell,
    error::Error,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use rustix::io::{FdFlags, fcntl_setfd};

use super::{
    RUNNING,
    channel::Channel,
    control, ending,
    handover::{CONTROL_VARIABLE, UPPER_VARIABLE},
    root::Upper,
};

/// Bytes of stack for the thread that answers the host.
const STACK: usize = 256 << 10;

/// What is inherited from the process that booted.
struct Inherited {
    channel: Channel,
    upper: Option<&'static Upper>,
}

/// `workspace guest`: runs `serve`, which calls what it is given once it listens; the host is answered then. When the
/// server ends, so does the machine, unless process 1 is the image's own init.
///
/// # Errors
/// When this was not started by the process that booted a microVM.
pub fn live(
    serve: impl FnOnce(Box<dyn FnOnce()>) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    ending::on_panic();
    // It was executed by way of /proc/self/exe, which would be its name.
    let _ = rustix::thread::set_name(c"workspace");
    let inherited = inherit().ok_or("`workspace guest` is only started by a microVM's first process")?;
    let upper = inherited.upper;
    let inherited = Rc::new(RefCell::new(Some(inherited)));
    let listening = inherited.clone();
    let ended = serve(Box::new(move || {
        if let Some(inherited) = listening.borrow_mut().take() {
            answer_from_now_on(inherited);
        }
    }));
    if let Err(problem) = &ended {
        crate::say(&problem.to_string());
        if let Some(mut inherited) = inherited.borrow_mut().take() {
            control::broken(&mut inherited.channel, problem.as_ref());
        }
    }
    if std::process::id() == 1 {
        crate::say("the workspace server has ended");
        ending::shut_down(upper);
    }
    ended
}

fn answer_from_now_on(mut inherited: Inherited) {
    inherited.channel.answer(&RUNNING);
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .stack_size(STACK)
        .spawn(move || control::serve(inherited.channel, inherited.upper));
    if let Err(error) = thread {
        crate::say(&format!("no thread for the control channel: {error}"));
    }
}

fn inherit() -> Option<Inherited> {
    let channel = Channel::inherited(&std::env::var(CONTROL_VARIABLE).ok()?)?;
    let upper =
        std::env::var(UPPER_VARIABLE).ok().and_then(|number| number.parse::<RawFd>().ok()).map(|number| {
            // SAFETY: the number comes from the process that executed this one, which opened it for this; nothing else uses it.
            let handle = unsafe { OwnedFd::from_raw_fd(number) };
            let _ = fcntl_setfd(&handle, FdFlags::CLOEXEC);
            // For the rest of the machine's life, whoever ends it.
            &*Box::leak(Box::new(Upper(handle)))
        });
    Some(Inherited { channel, upper })
}
