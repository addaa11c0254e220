//! Names the shared library after the version of its interface, which cargo leaves out: programs that were linked with
//! it look for `liblycomerge.so.N`, so none is ever started with another interface than it was compiled for.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Compiled in, so that a change of it runs this again.
    let header = include_str!("include/lycomerge.h");
    let version = header.lines().find_map(|line| line.strip_prefix("#define LYCO_ABI_VERSION "));
    let version = version.expect("the header defines LYCO_ABI_VERSION");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,liblycomerge.so.{version}");
    }
}
