//! Error codes and death reasons, with the numbers and names that users of AVF know.

use std::fmt;

/// A number that stands for no code of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown code {0}")]
pub struct UnknownCode(
    /// The number.
    pub i32,
);

/// Declares an enum of published numbers together with its published names, so that neither is written twice.
macro_rules! codes {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $number:literal $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i32)]
        pub enum $name {
            $($(#[$inner])* $variant = $number,)+
        }

        impl $name {
            /// Every code, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The published number.
            #[must_use]
            pub const fn number(self) -> i32 {
                self as i32
            }

            /// The published name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl TryFrom<i32> for $name {
            type Error = UnknownCode;

            fn try_from(number: i32) -> Result<Self, UnknownCode> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    other => Err(UnknownCode(other)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes! {
    /// Why a payload could not be run, as the guest reports it.
    ErrorCode {
        /// Anything without a code of its own.
        Unknown = 0 "UNKNOWN",
        /// The APK, its signature or its idsig is not what it should be.
        PayloadVerificationFailed = 1 "PAYLOAD_VERIFICATION_FAILED",
        /// The payload is not the one of the instance image.
        PayloadChanged = 2 "PAYLOAD_CHANGED",
        /// The payload's configuration cannot be used.
        PayloadInvalidConfig = 3 "PAYLOAD_INVALID_CONFIG",
    }
}

impl ErrorCode {
    /// How a VM is said to have died whose guest reported this error.
    #[must_use]
    pub const fn death_reason(self) -> DeathReason {
        match self {
            Self::Unknown => DeathReason::MicrodroidUnknownRuntimeError,
            Self::PayloadVerificationFailed => DeathReason::MicrodroidPayloadVerificationFailed,
            Self::PayloadChanged => DeathReason::MicrodroidPayloadHasChanged,
            Self::PayloadInvalidConfig => DeathReason::MicrodroidInvalidPayloadConfig,
        }
    }
}

codes! {
    /// Why a VM is no longer there. The numbers 9 and 10 are not used.
    DeathReason {
        /// The virtualization service itself failed.
        InfrastructureError = 0 "INFRASTRUCTURE_ERROR",
        /// The VM was stopped from outside.
        Killed = 1 "KILLED",
        /// Nothing is known.
        Unknown = 2 "UNKNOWN",
        /// The guest shut down.
        Shutdown = 3 "SHUTDOWN",
        /// The VM could not be started.
        StartFailed = 4 "START_FAILED",
        /// The guest asked for a reboot.
        Reboot = 5 "REBOOT",
        /// The guest's kernel or PID 1 crashed.
        Crash = 6 "CRASH",
        /// The firmware of a protected VM did not accept the key that signed the image.
        PvmFirmwarePublicKeyMismatch = 7 "PVM_FIRMWARE_PUBLIC_KEY_MISMATCH",
        /// The firmware of a protected VM found another instance image.
        PvmFirmwareInstanceImageChanged = 8 "PVM_FIRMWARE_INSTANCE_IMAGE_CHANGED",
        /// The guest could not reach the host's service.
        MicrodroidFailedToConnectToVirtualizationService = 11 "MICRODROID_FAILED_TO_CONNECT_TO_VIRTUALIZATION_SERVICE",
        /// [`ErrorCode::PayloadChanged`] was reported.
        MicrodroidPayloadHasChanged = 12 "MICRODROID_PAYLOAD_HAS_CHANGED",
        /// [`ErrorCode::PayloadVerificationFailed`] was reported.
        MicrodroidPayloadVerificationFailed = 13 "MICRODROID_PAYLOAD_VERIFICATION_FAILED",
        /// [`ErrorCode::PayloadInvalidConfig`] was reported.
        MicrodroidInvalidPayloadConfig = 14 "MICRODROID_INVALID_PAYLOAD_CONFIG",
        /// [`ErrorCode::Unknown`] was reported, or a signal killed the payload.
        MicrodroidUnknownRuntimeError = 15 "MICRODROID_UNKNOWN_RUNTIME_ERROR",
        /// The payload was not started in time.
        Hangup = 16 "HANGUP",
        /// A watchdog reset the VM.
        WatchdogReboot = 17 "WATCHDOG_REBOOT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_convert_both_ways_and_gaps_are_refused() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::try_from(code.number()), Ok(code));
        }
        for &reason in DeathReason::ALL {
            assert_eq!(DeathReason::try_from(reason.number()), Ok(reason));
        }
        for number in [-1, 4, i32::MAX] {
            assert_eq!(ErrorCode::try_from(number), Err(UnknownCode(number)));
        }
        for number in [-1, 9, 10, 18] {
            assert_eq!(DeathReason::try_from(number), Err(UnknownCode(number)));
        }
    }

    #[test]
    fn published_pairs_of_error_and_death() {
        let deaths: Vec<_> =
            ErrorCode::ALL.iter().map(|code| (code.number(), code.death_reason().number())).collect();
        assert_eq!(deaths, [(0, 15), (1, 13), (2, 12), (3, 14)]);
        assert_eq!(
            DeathReason::MicrodroidInvalidPayloadConfig.to_string(),
            "MICRODROID_INVALID_PAYLOAD_CONFIG"
        );
    }
}
