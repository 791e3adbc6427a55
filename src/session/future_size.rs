//! Keeps the futures of sessions small.
//!
//! An idle tunnel costs what its task's future takes, and there may be tens of thousands. A future
//! is as large as its largest phase, and it stores an argument next to the variable that the argument
//! is moved to. So each phase of a session has a box of its own: the memory of `establish` is
//! freed before that of `relay` is taken. The sizes are asserted when the gate is compiled.

use std::pin::Pin;

/// The largest that a session's task may be, in bytes, without the boxes of its phases.
pub const TASK: usize = 64;

/// Asserts at compile time that a future takes at most `MAX` bytes, and returns it as it is.
pub fn at_most<const MAX: usize, F: Future>(future: F) -> F {
    const { assert!(size_of::<F>() <= MAX, "the future has grown past its limit") };
    future
}

/// Moves a future to the heap, where its memory is freed as soon as it is done with. Asserts at
/// compile time that it takes at most `MAX` bytes there.
pub(super) fn boxed<const MAX: usize, F: Future>(future: F) -> Pin<Box<F>> {
    Box::pin(at_most::<MAX, F>(future))
}
