use super::*;

fn read(tally: &mut Tally, text: &str, ended_well: bool) {
    let mut shown = Vec::new();
    let mut program = tally.program("prog", &mut shown);
    // In pieces, as pipes give it.
    for piece in text.as_bytes().chunks(7) {
        program.write_all(piece).unwrap();
    }
    program.finish(ended_well);
    assert_eq!(shown, text.as_bytes(), "everything is passed on as it is");
}

fn names(tally: &Tally) -> Vec<&str> {
    tally.failed.iter().map(|(_, test)| test.as_str()).collect()
}

const GOOD: &str = "\nrunning 3 tests\ntest a ... ok\ntest b ... ignored, needs x\ntest c ... ok\n\n\
    test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n";

#[test]
fn a_good_program_is_counted() {
    let mut tally = Tally::default();
    read(&mut tally, GOOD, true);
    assert!(tally.is_success());
    assert_eq!(tally.summary(), "Skipped:\n    prog: b: needs x\n2 passed, 0 failed, 1 skipped");
}

#[test]
fn programs_add_up() {
    let mut tally = Tally::default();
    read(&mut tally, GOOD, true);
    read(&mut tally, GOOD, true);
    tally.count("fuzz", true);
    assert!(tally.summary().ends_with("\n5 passed, 0 failed, 1 skipped"), "{}", tally.summary());
}

#[test]
fn failures_are_named() {
    let text = "running 3 tests\ntest a ... FAILED\ntest m::b ... ok\ntest m::c ... FAILED\n\nfailures:\n\n\
        ---- a stdout ----\n\nthread 'a' panicked at x.rs:1:2:\n    indented words\n\n\nfailures:\n    a\n    m::c\n\n\
        test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
    let mut tally = Tally::default();
    read(&mut tally, text, false);
    assert!(!tally.is_success());
    assert_eq!(names(&tally), ["a", "m::c"]);
    assert_eq!(tally.summary(), "Failed:\n    prog: a\n    prog: m::c\n1 passed, 2 failed, 0 skipped");
}

#[test]
fn a_program_that_ends_early_has_failed() {
    for well in [true, false] {
        let mut tally = Tally::default();
        read(&mut tally, "running 2 tests\ntest a ... ok\ntest b ... ", well);
        assert_eq!(names(&tally), ["ended before 2 of its 2 tests had"]);
    }
}

#[test]
fn a_bad_end_without_a_word_is_a_failure() {
    let mut tally = Tally::default();
    read(&mut tally, "", false);
    read(&mut tally, GOOD, false);
    assert_eq!(names(&tally), ["ended with an error", "ended with an error"]);
    assert!(!tally.is_success());
}

#[test]
fn failures_without_names_are_counted() {
    let mut tally = Tally::default();
    read(
        &mut tally,
        "running 1 test\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\n",
        false,
    );
    assert_eq!(tally.failed.len(), 1);
}

#[test]
fn skips_do_not_count_as_passed_and_count_once() {
    let text = "running 2 tests\ntest a ... kapsel-skip: a: no /dev/kvm: ENOENT\nkapsel-skip: a: again\nok\n\
        test b ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
    let mut tally = Tally::default();
    read(&mut tally, text, true);
    assert_eq!(tally.summary(), "Skipped:\n    prog: a: again\n1 passed, 0 failed, 1 skipped");
}

#[test]
fn nothing_at_all_is_no_success() {
    assert!(!Tally::default().is_success());
}

#[test]
fn several_runs_in_one_output_add_up() {
    // cargo test --doc: one after another.
    let mut tally = Tally::default();
    read(&mut tally, &format!("   Doc-tests a\n{GOOD}   Doc-tests b\n{GOOD}"), true);
    assert!(tally.summary().ends_with("4 passed, 0 failed, 1 skipped"));
}
