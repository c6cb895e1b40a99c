//! Names of the tables, as `bpftool map` shows them and as their pins are called.

macro_rules! names {
    ($($(#[$doc:meta])+ $table:ident = $name:tt: $kind:ident<$($type:ty),*>,
        $key_size:literal => $value_size:literal, $entries:literal, $found:ident;)+) => {$(
        $(#[$doc])+
        pub const $table: &str = $name;
        const _: () = assert!($name.len() <= 15);
    )+};
}

crate::for_each_table!(names);
