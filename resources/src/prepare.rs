//! What a command needs is made ready: planned first, announced, then built, side by side where that helps.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::cargo::TestProgram;
use crate::kernel::{self, Kernel};
use crate::packages::{self, Purpose};
use crate::place::Place;
use crate::run;
use crate::steps::Steps;
use crate::{General, cargo, guest, sample, stock};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Part {
    /// The guest's kernel and image, with their description.
    Guest,
    /// The sample payload in its signed APK.
    Sample,
    /// The monitor.
    Vmm,
    /// The software host's kernel.
    Host,
    /// The test programs.
    Tests,
    /// What the fuzz targets are built with.
    #[value(skip)]
    Fuzzing,
}

/// One thing that is done, in the order in which they are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Packages,
    Source,
    GuestKernel,
    HostKernel,
    Guest,
    Sample,
    Vmm,
    Tests,
    StockKernel,
}

/// What it costs the first time: seconds on one core, and MB of disk that stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    seconds: u64,
    megabytes: u64,
}

impl Task {
    /// Processor time as measured, rounded up; disk at its peak.
    fn cost(self) -> Cost {
        let (seconds, megabytes) = match self {
            Self::Packages => (60, 400),
            Self::Source => (30, 1100),
            Self::GuestKernel => (450, 150),
            Self::HostKernel => (680, 200),
            Self::Guest => (150, 360),
            Self::Sample => (2, 1),
            Self::Vmm => (200, 370),
            Self::Tests => (300, 2400),
            Self::StockKernel => (10, 200),
        };
        Cost { seconds, megabytes }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    tasks: BTreeSet<Task>,
    /// Those that were never done here; the others take no time worth naming.
    first: BTreeSet<Task>,
    packages: Vec<&'static str>,
}

impl Plan {
    fn make(place: &Place, parts: &BTreeSet<Part>) -> Result<Self> {
        let (mut tasks, mut purposes) = (BTreeSet::new(), BTreeSet::new());
        for (part, kernel, task) in
            [(Part::Guest, Kernel::Guest, Task::GuestKernel), (Part::Host, Kernel::Host, Task::HostKernel)]
        {
            if parts.contains(&part) && kernel.ready()?.is_none() && !kernel.is_current(place)? {
                tasks.insert(task);
                purposes.insert(Purpose::Kernel);
            }
        }
        if !tasks.is_empty() && !kernel::source_is_current(place) {
            tasks.insert(Task::Source);
        }
        for (part, task, purpose) in [
            (Part::Guest, Some(Task::Guest), None),
            (Part::Sample, Some(Task::Sample), None),
            (Part::Vmm, Some(Task::Vmm), None),
            (Part::Tests, Some(Task::Tests), Some(Purpose::Tests)),
            (Part::Host, None, Some(Purpose::SoftwareHost)),
            (Part::Fuzzing, None, Some(Purpose::Fuzzing)),
        ] {
            if parts.contains(&part) {
                tasks.extend(task);
                purposes.extend(purpose);
            }
        }
        if parts.contains(&Part::Tests) && !stock::is_current(place) {
            tasks.insert(Task::StockKernel);
        }
        let packages = packages::missing(&purposes)?;
        if !packages.is_empty() {
            tasks.insert(Task::Packages);
        }
        let done = |task: Task| match task {
            Task::Guest => place.os_description().exists(),
            Task::Sample => place.sample_dir().exists(),
            Task::Vmm => place.vmm().exists(),
            Task::Tests => cargo::tests_marker(place).exists(),
            Task::Packages | Task::Source | Task::GuestKernel | Task::HostKernel | Task::StockKernel => false,
        };
        let first = tasks.iter().copied().filter(|task| !done(*task)).collect();
        Ok(Self { tasks, first, packages })
    }

    fn cost(&self) -> Cost {
        self.first.iter().map(|task| task.cost()).fold(Cost::default(), |sum, cost| Cost {
            seconds: sum.seconds + cost.seconds,
            megabytes: sum.megabytes + cost.megabytes,
        })
    }

    fn needs(&self, task: Task) -> bool {
        self.tasks.contains(&task)
    }
}

/// The cost as it is announced.
struct Announced(Cost, usize);

impl fmt::Display for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(cost, cores) = self;
        let cores_u64 = u64::try_from(*cores).unwrap_or(u64::MAX).max(1);
        let minutes = cost.seconds.div_ceil(60 * cores_u64).max(1);
        let (whole, tenth) = (cost.megabytes / 1000, cost.megabytes % 1000 / 100);
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        write!(
            f,
            "To be built once: about {whole}.{tenth} GB of disk, about {minutes} minute{} on {cores} core{}.",
            plural(minutes),
            plural(cores_u64)
        )
    }
}

/// What was made ready, beyond files at known places.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The test programs, when they were asked for.
    pub tests: Vec<TestProgram>,
}

/// Makes `parts` ready.
///
/// # Errors
/// The first thing that fails; what runs beside it is ended.
pub fn prepare(place: &Place, general: General, parts: &BTreeSet<Part>) -> Result<Prepared> {
    let lock = place.lock()?;
    let plan = Plan::make(place, parts)?;
    let steps = Steps::new(plan.tasks.len(), general.quiet);
    let cost = plan.cost();
    if cost.seconds > 10 {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        steps.say(&Announced(cost, cores).to_string());
        check_disk(place, cost.megabytes)?;
    }
    if plan.needs(Task::Packages) {
        packages::consent(&plan.packages, general.yes)?;
        packages::install(place, &steps, &plan.packages)?;
    }
    let builder = Builder { place, plan: &plan, steps: &steps, failure: Mutex::new(None) };
    let mut prepared = Prepared::default();
    thread::scope(|scope| {
        scope.spawn(|| builder.guard(|| builder.kernels()));
        builder.guard(|| {
            prepared = builder.programs()?;
            Ok(())
        });
    });
    if let Some(error) = builder.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    finish(place, parts)?;
    drop(lock);
    Ok(prepared)
}

/// Something is missing and was not to be built.
#[derive(Debug, thiserror::Error)]
#[error("Not everything is there that this needs: `images build host` builds and installs it")]
pub struct NotBuilt;

/// Fails unless `parts` are ready as they are.
///
/// # Errors
/// [`NotBuilt`].
pub fn check(place: &Place, parts: &BTreeSet<Part>) -> Result<()> {
    let _lock = place.lock()?;
    ensure!(Plan::make(place, parts)?.tasks.is_empty(), NotBuilt);
    finish(place, parts)
}

/// What needs both the kernel and the image.
fn finish(place: &Place, parts: &BTreeSet<Part>) -> Result<()> {
    for (part, kernel) in [(Part::Guest, Kernel::Guest), (Part::Host, Kernel::Host)] {
        if parts.contains(&part)
            && let Some(ready) = kernel.ready()?
        {
            kernel::use_ready(&ready, &kernel.output(place))?;
        }
    }
    if parts.contains(&Part::Guest) { guest::describe(place) } else { Ok(()) }
}

struct Builder<'a> {
    place: &'a Place,
    plan: &'a Plan,
    steps: &'a Steps,
    failure: Mutex<Option<anyhow::Error>>,
}

impl Builder<'_> {
    /// Keeps the first failure, and ends what runs beside it.
    fn guard(&self, work: impl FnOnce() -> Result<()>) {
        if let Err(error) = work() {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            run::cancel();
        }
    }

    fn kernels(&self) -> Result<()> {
        if self.plan.needs(Task::Source) {
            self.steps.run("Unpack the kernel's sources", |step| kernel::unpack(self.place, step))?;
        }
        thread::scope(|scope| {
            for (task, kernel, what) in [
                (Task::GuestKernel, Kernel::Guest, "Build the guest's kernel"),
                (Task::HostKernel, Kernel::Host, "Build the software host's kernel"),
            ] {
                if self.plan.needs(task) {
                    scope.spawn(move || {
                        self.guard(|| self.steps.run(what, |step| kernel.build(self.place, step)));
                    });
                }
            }
        });
        Ok(())
    }

    fn programs(&self) -> Result<Prepared> {
        let (place, steps) = (self.place, self.steps);
        if self.plan.needs(Task::Guest) {
            steps.run("Build the guest's image", |step| guest::build(place, step))?;
        }
        if self.plan.needs(Task::Sample) {
            steps.run("Build the sample payload", |step| sample::build(place, step))?;
        }
        if self.plan.needs(Task::Vmm) {
            steps.run("Build the monitor", |step| cargo::build_vmm(place, step))?;
        }
        if self.plan.needs(Task::StockKernel)
            && let Err(error) = steps.run("Download a stock kernel", |step| stock::fetch(place, step))
        {
            // Whoever has no apt, or no network, can run all other tests.
            steps.say(&format!("The tests with a stock kernel will be skipped: {error:#}"));
        }
        let tests = if self.plan.needs(Task::Tests) {
            steps.run("Build the tests", |step| cargo::build_tests(place, step))?
        } else {
            Vec::new()
        };
        Ok(Prepared { tests })
    }
}

fn check_disk(place: &Place, megabytes: u64) -> Result<()> {
    let path = std::ffi::CString::new(place.images.as_os_str().as_encoded_bytes())?;
    let mut stats = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is NUL-terminated; statvfs fills in the whole structure when it returns 0.
    let stats = unsafe {
        ensure!(libc::statvfs(path.as_ptr(), stats.as_mut_ptr()) == 0, "Ask for the free space of {path:?}");
        stats.assume_init()
    };
    let free = stats.f_bavail.checked_mul(stats.f_frsize).context("The free space")? / 1_000_000;
    ensure!(
        free >= megabytes,
        "{} MB are free below {}, and {megabytes} MB are needed: make room, or set CARGO_TARGET_DIR to a larger disk",
        free,
        place.target.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tasks: &[Task]) -> Plan {
        Plan {
            tasks: tasks.iter().copied().collect(),
            first: tasks.iter().copied().collect(),
            packages: vec![],
        }
    }

    #[test]
    fn what_is_announced_is_the_sum_of_what_was_never_done() {
        let mut plan = plan(&[Task::GuestKernel, Task::HostKernel, Task::Vmm]);
        let whole = plan.cost();
        plan.first.remove(&Task::Vmm);
        assert_eq!(plan.cost().seconds + Task::Vmm.cost().seconds, whole.seconds);
        assert_eq!(plan.cost().megabytes + Task::Vmm.cost().megabytes, whole.megabytes);
        plan.first.clear();
        assert_eq!(plan.cost(), Cost::default());
    }

    #[test]
    fn the_announcement_is_for_this_machine() {
        let cost = Cost { seconds: 1200, megabytes: 3456 };
        assert_eq!(
            Announced(cost, 2).to_string(),
            "To be built once: about 3.4 GB of disk, about 10 minutes on 2 cores."
        );
        assert!(Announced(cost, 64).to_string().ends_with("about 1 minute on 64 cores."));
        assert!(Announced(cost, 1).to_string().ends_with("about 20 minutes on 1 core."));
    }

    #[test]
    fn a_disk_that_is_too_small_is_named() {
        let place = Place::find().unwrap();
        std::fs::create_dir_all(&place.images).unwrap();
        check_disk(&place, 0).unwrap();
        let error = check_disk(&place, u64::MAX).unwrap_err().to_string();
        assert!(
            error.contains("make room") && error.contains(&place.target.display().to_string()),
            "{error}"
        );
    }
}
