//! Compiles the files of the configuration to [`Settings`] and a
//! [`PolicySet`](crate::policy::PolicySet).
//!
//! Pure: the caller reads the files. All errors in all files are reported at once, each with file,
//! line, cause and remedy.

#[cfg(feature = "inspect")]
mod authority;
#[cfg(not(feature = "inspect"))]
#[path = "no_authority.rs"]
mod authority;
mod az_forms;
mod azure;
mod clients;
mod comparison;
mod compile;
mod inspect;
mod main_file;
mod mirror;
mod parents;
mod preset_keys;
pub mod presets;
mod referenced_files;
mod registry_file;
mod settings;
mod source;
mod table;
mod text;
mod tls;
mod uploads;
mod users;
mod values;
mod without_password;

pub use authority::Authority;
#[cfg(feature = "inspect")]
pub use authority::AuthorityFacts;
pub use azure::{Import, ImportedEndpoints, import};
pub use comparison::{Comparison, compare};
pub use compile::{
    File, Files, Loaded, Named, compile, faults_without_folder, inspected, named_by,
    named_by_registry,
};
pub use inspect::AuthorityPaths;
pub use referenced_files::{Readers, ReferencedFile, Secret};
pub use settings::{
    AdminAddress, AnswerWith, Answerer, AuditTarget, BATCH, Capture, Conduct, FileAccess,
    ListenerSpec, Mode, OnFull, Ports, Profile, Settings,
};
pub use text::decode;
pub use tls::{
    ClientPaths, Expiry, Presence, Tls, TlsOfListeners, TlsPaths, expiries, expiry_warnings,
};
pub use users::{is_user_name, names as user_names, with_user, without_user};
