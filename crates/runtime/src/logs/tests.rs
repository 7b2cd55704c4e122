use std::io::ErrorKind;

use super::*;

/// A sink that accepts `room` bytes, and then fails until there is more room.
#[derive(Default)]
struct Disk {
    taken: Vec<u8>,
    room: usize,
    interrupts: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupts > 0 {
            self.interrupts -= 1;
            return Err([ErrorKind::Interrupted, ErrorKind::WouldBlock][self.interrupts % 2].into());
        }
        if self.room == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        let taken = self.room.min(bytes.len());
        self.room -= taken;
        self.taken.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines(room: usize) -> Lines<Disk> {
    let disk = Disk {
        room,
        ..Disk::default()
    };
    Lines::new(disk, Arc::default())
}

#[test]
fn a_line_that_is_not_taken_is_counted_and_no_error() {
    let mut lines = lines(0);
    for _ in 0..3 {
        lines.write_all(b"a line\n").unwrap();
    }
    assert_eq!(lines.refused.load(Ordering::Relaxed), 3);
    assert!(lines.sink.taken.is_empty());
}

#[test]
fn the_line_after_a_torn_one_begins_on_a_line_of_its_own() {
    let mut lines = lines(10);
    lines.write_all(b"first\n").unwrap();
    lines.write_all(b"second\n").unwrap();
    lines.write_all(b"third\n").unwrap();
    lines.sink.room = 100;
    lines.write_all(b"fourth\n").unwrap();
    lines.write_all(b"fifth\n").unwrap();
    assert_eq!(lines.sink.taken, b"first\nseco\nfourth\nfifth\n");
    assert_eq!(lines.refused.load(Ordering::Relaxed), 2);
}

#[test]
fn what_is_interrupted_or_would_block_is_written_all_the_same() {
    let mut lines = lines(100);
    lines.sink.interrupts = 4;
    lines.write_all(b"a line\n").unwrap();
    assert_eq!(lines.sink.taken, b"a line\n");
    assert_eq!(lines.refused.load(Ordering::Relaxed), 0);
}

#[test]
fn work_that_never_ends_is_left_behind() {
    let (release, held) = mpsc::channel::<()>();
    within(Duration::from_millis(20), move || {
        let _ = held.recv();
    });
    drop(release);
}
