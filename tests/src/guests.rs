//! Guests of about 100 bytes, entered by the 64-bit boot protocol: `%rsi` is `boot_params`, the first 4 GiB are mapped
//! one to one, and there is a stack. They use only instructions that every KVM can run in ring 0, emulated ones too,
//! but where the point is another. Machine code, so that no assembler is needed; each line carries its listing.

/// Base of the RAM that guests use as scratch: past any code, inside the smallest VM.
const SCRATCH: u32 = 0x20_0000;
/// An address below 4 GiB where no VM has anything.
const NOWHERE: u32 = 0xe000_0000;

/// Asks the keyboard controller for a reset, then waits for it.
const RESET: &[u8] = &[
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xf4, //       1: hlt
    0xeb, 0xfd, // jmp 1b
];

/// Waits for ever without leaving the guest.
const SPIN: &[u8] = &[0xeb, 0xfe]; // 1: jmp 1b

/// Waits for ever for an interrupt that cannot come.
const HALT: &[u8] = &[
    0xfa, //       cli
    0xf4, //       1: hlt
    0xeb, 0xfd, // jmp 1b
];

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn imm32(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("guests are small").to_le_bytes()
}

/// Writes `text` to COM1, one `out` a byte.
fn put_bytes(text: &[u8]) -> Vec<u8> {
    let mut code = vec![0xba, 0xf8, 0x03, 0x00, 0x00]; // mov edx, 0x3f8
    for byte in text {
        code.extend([0xb0, *byte, 0xee]); // mov al, byte; out dx, al
    }
    code
}

/// Writes `text` to COM1 with one string instruction.
fn put_string(text: &[u8]) -> Vec<u8> {
    join(&[
        &[0x48, 0x8d, 0x35],       //           lea rsi, [rip + ..]
        &imm32(17),                //             to the text
        &[0xb9],                   //           mov ecx, ..
        &imm32(text.len()),        //             its length
        &[0xba, 0xf8, 0x03, 0, 0], //     mov edx, 0x3f8
        &[0xf3, 0x6e],             //           rep outsb
        &[0xe9],                   //           jmp
        &imm32(text.len()),        //             past the text
        text,
    ])
}

/// `HELLO\n`, byte by byte, then a reset.
pub fn hello() -> Vec<u8> {
    join(&[&put_bytes(b"HELLO\n"), RESET])
}

/// The same for 32-bit and 64-bit mode alike, and for monitors without a keyboard controller: there it ends with a fault
/// without a handler.
pub fn hello_anywhere() -> Vec<u8> {
    join(&[&put_bytes(b"HELLO\n"), &RESET[..4], &[0x0f, 0x0b]]) // ud2
}

/// `text` by one string instruction, then a reset.
pub fn print(text: &[u8]) -> Vec<u8> {
    join(&[&put_string(text), RESET])
}

/// `line` printed `times` times, then a reset.
pub fn print_often(line: &[u8], times: u32) -> Vec<u8> {
    let body = put_string(line);
    let back = -i32::try_from(body.len() + 8).expect("guests are small");
    join(&[
        &[0xbb],              // mov ebx, times
        &times.to_le_bytes(), //
        &body,                // 1: print
        &[0xff, 0xcb],        // dec ebx
        &[0x0f, 0x85],        // jnz 1b
        &back.to_le_bytes(),
        RESET,
    ])
}

/// Writes `line` to COM2, then a reset.
pub fn say_failure(line: &[u8]) -> Vec<u8> {
    let mut code = vec![0xba, 0xf8, 0x02, 0x00, 0x00]; // mov edx, 0x2f8
    for byte in line {
        code.extend([0xb0, *byte, 0xee]); // mov al, byte; out dx, al
    }
    join(&[&code, RESET])
}

/// Sends back what COM1 receives, up to the end of a line, then a reset.
pub fn echo_line() -> Vec<u8> {
    join(&[
        &[0xba, 0xfd, 0x03, 0, 0], // 1: mov edx, 0x3fd
        &[0xec],                   //    in al, dx
        &[0xa8, 0x01],             //    test al, 1        data ready
        &[0x74, 0xf6],             //    jz 1b
        &[0xba, 0xf8, 0x03, 0, 0], //    mov edx, 0x3f8
        &[0xec, 0xee],             //    in al, dx; out dx, al
        &[0x3c, b'\n'],            //    cmp al, '\n'
        &[0x75, 0xeb],             //    jne 1b
        RESET,
    ])
}

/// `READY\n`, then spins in the guest.
pub fn spin() -> Vec<u8> {
    join(&[&put_bytes(b"READY\n"), SPIN])
}

/// `READY\n`, then halts with interrupts off.
pub fn halt() -> Vec<u8> {
    join(&[&put_bytes(b"READY\n"), HALT])
}

/// `DYING\n`, then a fault without a handler.
pub fn triple_fault() -> Vec<u8> {
    join(&[&put_bytes(b"DYING\n"), &[0x0f, 0x0b]]) // ud2
}

/// `TRYING\n`, then an instruction that the KVM of a pagetable VM lacks in ring 0, then a reset.
pub fn popcnt() -> Vec<u8> {
    join(&[&put_bytes(b"TRYING\n"), &[0xf3, 0x0f, 0xb8, 0xc1], RESET]) // popcnt eax, ecx
}

/// `JUMPING\n`, then goes where no memory is: no KVM can fetch instructions from there.
pub fn jump_nowhere() -> Vec<u8> {
    join(&[
        &put_bytes(b"JUMPING\n"),
        &[0xb8], //       mov eax, NOWHERE
        &NOWHERE.to_le_bytes(),
        &[0xff, 0xe0], // jmp rax
    ])
}

/// Reads and writes addresses and ports where nothing is, in every size: all must read as ones and every write must be
/// ignored. Prints `OK\n` or `BAD\n`, then resets.
pub fn touch_nothing() -> Vec<u8> {
    let bad = join(&[&put_bytes(b"BAD\n"), RESET]);
    let mut code = vec![0xbb]; // mov ebx, NOWHERE
    code.extend(NOWHERE.to_le_bytes());
    let skip = u8::try_from(bad.len()).expect("a short jump");
    let mut step = |access: &[u8], compare: &[u8]| {
        code.extend(access);
        code.extend(compare);
        code.extend([0x74, skip]); // je past the failure
        code.extend(&bad);
    };
    step(&[0x8a, 0x03], &[0x3c, 0xff]); //             mov al, [rbx];  cmp al, -1
    step(&[0x66, 0x8b, 0x03], &[0x66, 0x83, 0xf8, 0xff]); // mov ax, [rbx];  cmp ax, -1
    step(&[0x8b, 0x03], &[0x83, 0xf8, 0xff]); //       mov eax, [rbx]; cmp eax, -1
    step(&[0x48, 0x8b, 0x03], &[0x48, 0x83, 0xf8, 0xff]); // mov rax, [rbx]; cmp rax, -1
    step(&[0x89, 0x03, 0x8b, 0x03], &[0x83, 0xf8, 0xff]); // mov [rbx], eax; mov eax, [rbx]; cmp eax, -1
    step(&[0xba, 0xf8, 0x0c, 0, 0, 0xed], &[0x83, 0xf8, 0xff]); // mov edx, 0xcf8; in eax, dx; cmp eax, -1
    step(&[0xef, 0x66, 0xed], &[0x66, 0x83, 0xf8, 0xff]); // out dx, eax; in ax, dx; cmp ax, -1
    step(&[0xe4, 0x99], &[0x3c, 0xff]); //             in al, 0x99;    cmp al, -1
    code.extend(put_bytes(b"OK\n"));
    code.extend(RESET);
    code
}

/// Prints the kernel command line that `boot_params` points to and a newline, then resets.
pub fn print_cmdline() -> Vec<u8> {
    join(&[
        &[0x8b, 0xb6, 0x28, 0x02, 0, 0], // mov esi, [rsi + cmd_line_ptr]
        &[0xba, 0xf8, 0x03, 0, 0],       // mov edx, 0x3f8
        &[0xac],                         // 1: lodsb
        &[0x84, 0xc0],                   // test al, al
        &[0x74, 0x03],                   // jz 2f
        &[0xee],                         // out dx, al
        &[0xeb, 0xf8],                   // jmp 1b
        &put_bytes(b"\n"),               // 2:
        RESET,
    ])
}

/// Prints the initial ramdisk that `boot_params` points to, then resets.
pub fn print_ramdisk() -> Vec<u8> {
    join(&[
        &[0x8b, 0x8e, 0x1c, 0x02, 0, 0], // mov ecx, [rsi + ramdisk_size]
        &[0x8b, 0xb6, 0x18, 0x02, 0, 0], // mov esi, [rsi + ramdisk_image]
        &[0xba, 0xf8, 0x03, 0, 0],       // mov edx, 0x3f8
        &[0xf3, 0x6e],                   // rep outsb
        RESET,
    ])
}

/// Writes `Z` to the scratch register of COM1, reads it five times with one string instruction (KVM then asks for
/// several reads in one exit), prints what it read, then resets.
pub fn string_input() -> Vec<u8> {
    join(&[
        &[0xba, 0xff, 0x03, 0, 0], // mov edx, 0x3ff
        &[0xb0, b'Z', 0xee],       // mov al, 'Z'; out dx, al
        &[0xbf],                   // mov edi, SCRATCH
        &SCRATCH.to_le_bytes(),
        &[0xb9, 5, 0, 0, 0], //       mov ecx, 5
        &[0xf3, 0x6c],       //       rep insb
        &[0xbe],             //       mov esi, SCRATCH
        &SCRATCH.to_le_bytes(),
        &[0xb9, 5, 0, 0, 0],       // mov ecx, 5
        &[0xba, 0xf8, 0x03, 0, 0], // mov edx, 0x3f8
        &[0xf3, 0x6e],             // rep outsb
        &put_bytes(b"\n"),
        RESET,
    ])
}

/// Entered by PVH: prints the command line that `hvm_start_info` points to, its magic number before it and a newline
/// behind it, then resets. 32-bit code.
pub fn pvh() -> Vec<u8> {
    join(&[
        &[0xba, 0xf8, 0x03, 0, 0], // mov edx, 0x3f8
        &[0x89, 0xde],             // mov esi, ebx
        &[0xb9, 4, 0, 0, 0],       // mov ecx, 4
        &[0xf3, 0x6e],             // rep outsb
        &[0x8b, 0x73, 0x18],       // mov esi, [ebx + cmdline_paddr]
        &[0xac],                   // 1: lodsb
        &[0x84, 0xc0],             // test al, al
        &[0x74, 0x03],             // jz 2f
        &[0xee],                   // out dx, al
        &[0xeb, 0xf8],             // jmp 1b
        &[0xb0, b'\n', 0xee],      // 2: mov al, '\n'; out dx, al
        RESET,
    ])
}

/// A ROM of about 100 bytes, its last 16 with the first instruction: prints itself from the shadow below 1 MiB, as far
/// as the text goes, writes to itself, prints `ROM\n` if nothing came of that, then resets. 16-bit code.
pub fn rom() -> Vec<u8> {
    let text = b"hello from the shadow\n";
    let code = join(&[
        &[0xb8, 0x00, 0xf0],             //       mov ax, 0xf000
        &[0x8e, 0xd8],                   //       mov ds, ax
        &[0xba, 0xf8, 0x03],             //       mov dx, 0x3f8
        &[0xbe, 0, 0],                   //       mov si, text: filled in below
        &[0xb9, 22, 0],                  //       mov cx, 22
        &[0xf3, 0x6e],                   //       rep outsb
        &[0x2e, 0xc6, 0x06, 0, 0, b'r'], // mov byte cs:[name], 'r': filled in below
        &[0xb9, 4, 0],                   //       mov cx, 4
        &[0xbe, 0, 0],                   //       mov si, name: filled in below
        &[0x2e, 0xf3, 0x6e],             //       rep outsb from cs:
        RESET,
    ]);
    let name = b"ROM\n";
    let len = code.len() + text.len() + name.len() + 16;
    let start = 0x1_0000 - len;
    let at = |offset: usize| u16::try_from(start + offset).expect("below 64 KiB").to_le_bytes();
    let mut rom = join(&[&code, text, name]);
    rom[9..11].copy_from_slice(&at(code.len()));
    rom[19..21].copy_from_slice(&at(code.len() + text.len()));
    rom[26..28].copy_from_slice(&at(code.len() + text.len()));
    let back = -i16::try_from(rom.len() + 3).expect("guests are small");
    rom.push(0xe9); // jmp to the first byte
    rom.extend(back.to_le_bytes());
    rom.resize(len, 0);
    rom
}

/// Where the other processors of [`processors`] start: a page below 1 MiB that only the first code's stack shares.
const START_PAGE: u8 = 0x08;

/// Starts all other processors by INIT and SIPI, waits until `others` of them have counted themselves, prints `ALL n\n`,
/// then resets.
pub fn processors(others: u8) -> Vec<u8> {
    // Real mode at 0x8000: lock inc byte cs:[0x100]; 1: hlt; jmp 1b
    let start = [0x2e, 0xf0, 0xfe, 0x06, 0x00, 0x01, 0xf4, 0xeb, 0xfd];
    let mut code = Vec::new();
    for (at, byte) in (u32::from(START_PAGE) << 12..).zip(start) {
        code.extend([0xc6, 0x04, 0x25]); //          mov byte [at], byte
        code.extend(at.to_le_bytes());
        code.push(byte);
    }
    code.extend([0xbb, 0x00, 0x03, 0xe0, 0xfe]); //  mov ebx, the interrupt command register
    for command in [0xc_4500, 0xc_4600 | u32::from(START_PAGE)] {
        code.extend([0xc7, 0x03]); //                mov dword [rbx], INIT or SIPI, to all others
        code.extend(command.to_le_bytes());
    }
    code.extend([0x80, 0x3c, 0x25, 0x00, 0x81, 0, 0, others]); // 1: cmp byte [0x8100], others
    code.extend([0x75, 0xf6]); //                    jne 1b
    code.extend(put_bytes(format!("ALL {others}\n").as_bytes()));
    code.extend(RESET);
    code
}

/// Asks for a reset and, without waiting for it, prints what must never be seen.
pub fn run_on_after_reset() -> Vec<u8> {
    join(&[&put_bytes(b"RESET\n"), &RESET[..4], &put_bytes(b"ON AND ON\n"), SPIN])
}

/// Writes `control` to ACPI's PM1a control register, then spins.
pub fn sleep_state(control: u16) -> Vec<u8> {
    let [low, high] = control.to_le_bytes();
    join(&[
        &[0xba, 0x04, 0x06, 0, 0], // mov edx, 0x604
        &[0x66, 0xb8, low, high],  // mov ax, control
        &[0x66, 0xef],             // out dx, ax
        SPIN,
    ])
}

/// Tells the panic device what it understands of `events`, then spins.
pub fn panic_events(events: u8) -> Vec<u8> {
    join(&[
        &[0xba, 0x05, 0x05, 0, 0], // mov edx, 0x505
        &[0xec],                   // in al, dx
        &[0x24, events],           // and al, events
        &[0xee],                   // out dx, al
        SPIN,
    ])
}

/// Enables the power button, prints `READY\n`, waits until it is pressed, prints `PRESSED\n`, then switches itself off.
pub fn power_button() -> Vec<u8> {
    join(&[
        &[0xba, 0x02, 0x06, 0, 0], // mov edx, 0x602
        &[0x66, 0xb8, 0x00, 0x01], // mov ax, 0x100
        &[0x66, 0xef],             // out dx, ax
        &put_bytes(b"READY\n"),
        &[0xba, 0x00, 0x06, 0, 0], // mov edx, 0x600
        &[0x66, 0xed],             // 1: in ax, dx
        &[0xf6, 0xc4, 0x01],       // test ah, 1
        &[0x74, 0xf9],             // jz 1b
        &put_bytes(b"PRESSED\n"),
        &sleep_state(0x3400),
    ])
}

/// Where [`count`] counts.
pub const COUNTER: u64 = SCRATCH as u64;

/// Counts for ever.
pub fn count() -> Vec<u8> {
    // 1: inc dword [SCRATCH]; jmp 1b
    join(&[&[0xff, 0x04, 0x25], &SCRATCH.to_le_bytes(), &[0xeb, 0xf7]])
}
