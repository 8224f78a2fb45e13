//! The layout check refuses what is laid out otherwise: a field that has moved, has another type or is gone, a method
//! that has moved. What was added at the end is let in, from either side.
//!
//! `tests/frozen` is the place for images that were built with released versions; each has to load with every later one.
#![allow(unsafe_code, non_local_definitions, dead_code)]

use abi_stable::{
    StableAbi,
    std_types::{RBox, RResult, RSlice, RStr, RString},
    type_layout::TypeLayout,
};
use skerry_abi::raw::{self, HostBox, InstanceBox, RootRef, layouts_fit};

/// Whether an image with the layout `theirs` is let in, by a host with `ours`, and the other way around.
fn check(ours: &'static TypeLayout, theirs: &'static TypeLayout, fits: bool) {
    assert_eq!(layouts_fit(ours, theirs), fits, "{ours}\n{theirs}");
    assert_eq!(layouts_fit(theirs, ours), fits, "{theirs}\n{ours}");
}

/// Copies of `raw::Delivery` with something changed.
mod delivery {
    use super::*;

    macro_rules! variant {
        ($module:ident: $($field:ident: $type:ty),*) => {
            pub mod $module {
                use super::*;
                #[repr(C)]
                #[derive(StableAbi)]
                pub struct Delivery<'a> { $(pub $field: $type,)* }
            }
        };
    }

    variant!(same: id: u64, enqueued_ms: i64, input: u16, attempts: u16, source_module: RStr<'a>,
        source_output: RStr<'a>, record: RSlice<'a, u8>);
    variant!(moved: id: u64, enqueued_ms: i64, attempts: u16, input: u16, source_module: RStr<'a>,
        source_output: RStr<'a>, record: RSlice<'a, u8>);
    variant!(retyped: id: u64, enqueued_ms: u64, input: u16, attempts: u16, source_module: RStr<'a>,
        source_output: RStr<'a>, record: RSlice<'a, u8>);
    variant!(grown: id: u64, enqueued_ms: i64, input: u16, attempts: u16, source_module: RStr<'a>,
        source_output: RStr<'a>, record: RSlice<'a, u8>, more: u64);
}

#[test]
fn a_struct_keeps_its_fields() {
    let ours = <delivery::same::Delivery<'static> as StableAbi>::LAYOUT;
    check(ours, ours, true);
    check(ours, <delivery::moved::Delivery<'static> as StableAbi>::LAYOUT, false);
    check(ours, <delivery::retyped::Delivery<'static> as StableAbi>::LAYOUT, false);
    check(ours, <delivery::grown::Delivery<'static> as StableAbi>::LAYOUT, false);
    // Were the copy no copy any more, the rest would prove nothing.
    check(ours, <raw::Delivery<'static> as StableAbi>::LAYOUT, true);
}

/// Copies of `raw::Root`.
mod root {
    use super::*;

    // Token by token: the derive has to see the function's type as it is written.
    macro_rules! variant {
        ($module:ident: $($fields:tt)*) => {
            pub mod $module {
                use super::*;
                #[repr(C)]
                #[derive(StableAbi)]
                #[sabi(kind(Prefix(prefix_ref = RootRef, prefix_fields = RootFields)))]
                #[sabi(missing_field(panic))]
                pub struct Root { $($fields)* }
            }
        };
    }

    variant!(grown: pub sdk_version: RStr<'static>, #[sabi(last_prefix_field)]
        pub create: extern "C" fn(host: HostBox) -> RResult<InstanceBox, RString>, pub more: u64);
    variant!(moved: pub create: extern "C" fn(host: HostBox) -> RResult<InstanceBox, RString>,
        #[sabi(last_prefix_field)] pub sdk_version: RStr<'static>);
    variant!(shrunk: #[sabi(last_prefix_field)] pub sdk_version: RStr<'static>);
}

#[test]
fn the_root_module_grows_at_its_end_only() {
    let ours = <RootRef as StableAbi>::LAYOUT;
    let grown = <root::grown::RootRef as StableAbi>::LAYOUT;
    check(ours, ours, true);
    check(ours, grown, true);
    check(grown, ours, true);
    check(ours, <root::moved::RootRef as StableAbi>::LAYOUT, false);
    check(ours, <root::shrunk::RootRef as StableAbi>::LAYOUT, false);
}

/// Copies of a trait: what is true of one is true of `Host` and `Instance`.
mod calls {
    use super::*;

    macro_rules! variant {
        ($module:ident: $($items:tt)*) => {
            pub mod $module {
                use super::*;
                #[abi_stable::sabi_trait]
                pub trait Calls: Send { $($items)* }
                pub type CallsBox = Calls_TO<'static, RBox<()>>;
            }
        };
    }

    variant!(first: fn one(&self) -> u64; #[sabi(last_prefix_field)] fn two(&self, text: RStr<'_>););
    variant!(grown: fn one(&self) -> u64; #[sabi(last_prefix_field)] fn two(&self, text: RStr<'_>);
        fn three(&self) {});
    variant!(moved: fn two(&self, text: RStr<'_>); #[sabi(last_prefix_field)] fn one(&self) -> u64;);
    variant!(retyped: fn one(&self) -> u32; #[sabi(last_prefix_field)] fn two(&self, text: RStr<'_>););
}

#[test]
fn a_trait_grows_at_its_end_only() {
    let first = <calls::first::CallsBox as StableAbi>::LAYOUT;
    let grown = <calls::grown::CallsBox as StableAbi>::LAYOUT;
    check(first, grown, true);
    check(grown, first, true);
    check(first, <calls::moved::CallsBox as StableAbi>::LAYOUT, false);
    check(first, <calls::retyped::CallsBox as StableAbi>::LAYOUT, false);
}
