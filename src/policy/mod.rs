//! The ground floor: names, targets, reasons, and the judgements that mint permits.

mod name;
mod reason;
mod target;

pub use name::{LONGEST_NAME, Name, NameError};
pub use reason::{Cause, Denial, Ending, Failure, Reason, Side, Stop};
pub use target::{HTTPS, Target, TargetError, parse_port};
