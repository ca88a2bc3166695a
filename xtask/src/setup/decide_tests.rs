//! The decisions of setup, machine by machine. Runs nothing.

use super::*;

fn compiler(name: &str, release: Release, source: bool) -> Compiler {
    Compiler { name: name.to_owned(), release, nightly: name.starts_with("nightly"), llvm: 22, source }
}

fn linker_of(version: &str, llvm: Option<u32>) -> Linker {
    Linker { path: "/bin/bpf-linker".into(), version: version.to_owned(), llvm }
}

fn picked(compilers: &[Compiler], asked: Option<&str>) -> Option<String> {
    pick(compilers, asked).expect("a decision").map(|compiler| compiler.name)
}

#[test]
fn a_nightly_with_source_is_taken_before_the_linked_toolchain() {
    let both = [compiler("bpf-debian", Release(1, 96), true), compiler("nightly", Release(1, 98), true)];
    assert_eq!(picked(&both, None).as_deref(), Some("nightly"));
}

#[test]
fn a_nightly_without_source_is_passed_over() {
    let both = [compiler("nightly", Release(1, 97), false), compiler("bpf-debian", Release(1, 96), true)];
    assert_eq!(picked(&both, None).as_deref(), Some("bpf-debian"));
    assert_eq!(picked(&both[..1], None), None);
}

#[test]
fn an_old_compiler_is_no_use() {
    assert_eq!(picked(&[compiler("nightly", Release(1, 94), true)], None), None);
}

#[test]
fn the_toolchain_asked_for_by_name_wins() {
    let both = [compiler("nightly", Release(1, 98), true), compiler("bpf-debian", Release(1, 96), true)];
    assert_eq!(picked(&both, Some("bpf-debian")).as_deref(), Some("bpf-debian"));
}

#[test]
fn a_useless_toolchain_asked_for_by_name_is_an_error_that_says_why() {
    let error = pick(&[compiler("nightly", Release(1, 98), false)], Some("nightly")).expect_err("no source");
    assert!(error.to_string().contains("rust-src"), "{error}");
    let error = pick(&[], Some("nightly")).expect_err("not there");
    assert!(error.to_string().contains("rustup toolchain list"), "{error}");
}

#[test]
fn debian_12_tries_its_packages_first_and_others_only_rustup() {
    let on = |system: &str| Findings { system: system.to_owned(), ..Findings::default() };
    assert_eq!(ways(&on("debian 12")), [Way::Debian, Way::Nightly]);
    assert_eq!(ways(&on("ubuntu 24.04")), [Way::Nightly]);
    assert_eq!(ways(&on(" ")), [Way::Nightly]);
}

#[test]
fn on_debian_only_what_is_missing_is_done() {
    let fresh = Findings { rustup: true, ..Findings::default() };
    assert_eq!(steps(Way::Debian, &fresh, true), [Step::Packages(&DEBIAN_RUST), Step::LinkDebian]);
    assert_eq!(steps(Way::Debian, &fresh, false), [Step::LinkDebian]);
    let linked = Findings { compilers: vec![compiler("bpf-debian", Release(1, 96), false)], ..fresh };
    assert_eq!(steps(Way::Debian, &linked, true), [Step::Packages(&DEBIAN_RUST)]);
}

#[test]
fn a_linker_of_the_right_version_stays() {
    let plan = |linker: &Linker| linker_plan(Some(linker), 22);
    assert_eq!(plan(&linker_of(LINKER_VERSION, Some(22))), LinkerPlan::Keep);
    assert_eq!(plan(&linker_of(LINKER_VERSION, Some(23))), LinkerPlan::Keep);
    assert_eq!(plan(&linker_of(LINKER_VERSION, None)), LinkerPlan::Keep);
}

#[test]
fn a_linker_of_another_version_or_an_older_llvm_is_replaced() {
    let plan = |linker: &Linker| linker_plan(Some(linker), 22);
    assert_eq!(plan(&linker_of("0.9.14", Some(22))), LinkerPlan::Released);
    assert_eq!(plan(&linker_of(LINKER_VERSION, Some(21))), LinkerPlan::Released);
}

fn linker_plan(found: Option<&Linker>, needed: u32) -> LinkerPlan {
    linker(found, needed, &[], &[]).expect("a plan")
}

#[test]
fn llvm_on_the_machine_is_used_before_packages_and_packages_before_a_download() {
    assert_eq!(linker(None, 22, &[22], &[23]).expect("a plan"), LinkerPlan::Build { llvm: 22 });
    assert_eq!(linker(None, 22, &[21], &[22]).expect("a plan"), LinkerPlan::InstallLlvmAndBuild { llvm: 22 });
    assert_eq!(linker(None, 23, &[22], &[22]).expect("a plan"), LinkerPlan::Released);
}

#[test]
fn a_compiler_newer_than_every_known_llvm_is_refused() {
    let error = linker(None, 24, &[24], &[24]).expect_err("too new");
    assert!(error.to_string().contains("LLVM 24"), "{error}");
}

#[test]
fn a_disk_with_less_room_than_a_build_takes_is_told_with_what_it_has_and_what_to_do() {
    let disk =
        |free: u64, built: u64| Disk { folder: "/src/target".into(), free: free << 30, built: built << 30 };
    for (free, built) in [(100, 0), (6, 0), (3, 3), (1, 60)] {
        assert_eq!(too_little_room(&disk(free, built)), None, "{free} free, {built} built");
    }
    for (free, built) in [(5, 0), (2, 3), (0, 60)] {
        assert!(too_little_room(&disk(free, built)).is_some(), "{free} free, {built} built");
    }
    let said = too_little_room(&disk(1, 2)).expect("too little");
    for part in [
        "/src/target has 1.0 GiB left",
        "takes 3.5 GiB more",
        "`cargo clean` frees 2.0 GiB",
        "CARGO_TARGET_DIR",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
