//! A payload that is asked to end: it may do so in its own way, or be made to.

use tests::linux::{App, Files, Life};

#[test]
fn a_payload_that_is_asked_to_end_has_its_chance() {
    let Some(files) = Files::find("a_payload_that_is_asked_to_end_has_its_chance") else { return };
    // Of the guest's time, which a payload that answers does not need.
    let app = App::new(&files, &files.apks.join("polite.apk")).args(&["--grace", "1000"]);
    let running = app.start().wait_for("WAITING\n");
    running.signal(libc::SIGTERM);
    let life = Life::of(running.wait());
    assert_eq!((life.ended.text().as_str(), life.ended.status), ("WAITING\nBYE\n", 143), "{life:?}");
    assert!(life.text("payload_finished").ends_with('7'), "{life:?}");
    assert_eq!(life.death_reason(), Some(3), "SHUTDOWN: {life:?}");
}

#[test]
fn a_payload_that_does_not_listen_is_stopped_after_the_grace() {
    let Some(files) = Files::find("a_payload_that_does_not_listen_is_stopped_after_the_grace") else {
        return;
    };
    // By PID 1 when three quarters of the time are over; and by the monitor at once when it is told for the second time.
    for signals in [1, 2] {
        let grace = if signals == 1 { "2" } else { "1000" };
        let app = App::new(&files, &files.apks.join("deaf.apk")).args(&["--grace", grace]);
        let running = app.start().wait_for("WAITING\n");
        for _ in 0..signals {
            running.signal(libc::SIGTERM);
            // Two that come at once are one.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        let life = Life::of(running.wait());
        assert_eq!((life.ended.text().as_str(), life.ended.status), ("WAITING\n", 143), "{life:?}");
        assert!(!life.names().contains(&"payload_finished"), "{life:?}");
        assert_eq!(life.death_reason(), Some(1), "KILLED: {life:?}");
    }
}
