//! The pinned tables: where they are, what they must look like, and typed access to them.

mod batch;
pub(crate) mod bpf_syscall;
mod instance_lock;
mod lock_holder;
mod pins;
pub(crate) mod schema;
mod tables;
mod trust;

pub(crate) use self::instance_lock::run_file;
pub use self::instance_lock::{InstanceLock, LockError};
pub use self::pins::Pins;
pub use self::schema::LayoutError;
pub(crate) use self::tables::{BPF_EXIST, access, full, gone};
pub use self::tables::{BackendLists, Hash, Prefixes, TableError, Tables, prefix_key, prefix_of};
pub use self::trust::TrustError;
pub(crate) use self::trust::{private_directory, private_file, resolve};
