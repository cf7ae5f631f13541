//! A step that is given up in the middle: soon, on every number of threads, and the next one is right.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use cpu::Cpu;
use graph::cases::{self, Cut};
use graph::reference::Reference;
use graph::{Backend, Blocks, ErrorKind, LoadOptions, NoTap, Step, Stop};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_step_is_given_up_and_the_next_has_the_reference_bits() {
    let case = cases::decoders().unwrap().swap_remove(0);
    let load = |backend: &dyn Backend| {
        let graph = Arc::clone(&case.graph);
        backend.load(graph, &[&case.file], LoadOptions::default(), &mut |_| {}).unwrap()
    };
    let expected = case.record(&mut *load(&Reference), Cut::Batch(17)).unwrap();
    let backends: [Box<dyn Backend>; 3] =
        [Box::new(Cpu::new(1)), Box::new(Cpu::new(3)), Box::new(Reference)];
    for backend in backends {
        let mut loaded = load(&*backend);
        let mut kv = loaded.new_kv(&Blocks::Each(1)).unwrap();
        let stop = Stop::new();
        loaded.stop_with(stop.clone());
        stop.request();
        let error = loaded.run(&Step::single(&[1, 2, 3], 0), &mut kv, &mut NoTap).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped, "{}", backend.name());
        stop.clear();
        let got = case.record(&mut *loaded, Cut::Batch(17)).unwrap();
        assert_eq!(got.first_difference(&expected, &case.graph), None, "{}", backend.name());
    }
}

/// From another thread, while steps go on: within the time in which a person would wonder, even on a machine that does
/// other work beside.
#[allow(clippy::disallowed_methods, reason = "who stops a step is no part of a kernel")]
#[test]
fn a_wish_from_another_thread_is_heard() {
    let case = cases::decoders().unwrap().swap_remove(0);
    let graph = Arc::clone(&case.graph);
    let options = LoadOptions::default();
    let mut loaded = Cpu::new(2).load(graph, &[&case.file], options, &mut |_| {}).unwrap();
    let mut kv = loaded.new_kv(&Blocks::Each(1)).unwrap();
    let stop = Stop::new();
    loaded.stop_with(stop.clone());
    let wish = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        stop.request();
        Instant::now()
    });
    let step = Step::single(&(0..32).collect::<Vec<u32>>(), 0);
    while let Ok(logits) = loaded.run(&step, &mut kv, &mut NoTap) {
        assert!(!logits.is_empty());
    }
    assert!(wish.join().unwrap().elapsed() < Duration::from_secs(2));
}
