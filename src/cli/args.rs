//! The command line: one definition that feeds the parser, the help, the man pages and the completions.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand, ValueEnum};

use crate::host::View;
use crate::settings::DEFAULT_PATH;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no such domain, 4 root is needed,
5 the device model died, 6 a difference or a breach was found, 7 the host does not fit, 130 and 143 ended by SIGINT and SIGTERM.

A refusal says what was refused, which rule decided, and the smallest change that would allow it.";

/// Labels and confines the device models of a hypervisor.
#[derive(Debug, Parser)]
#[command(name = "svirt", version, styles = STYLES, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Args {
    /// The configuration file
    #[arg(long, global = true, env = "SVIRT_CONFIG", default_value = DEFAULT_PATH, value_name = "FILE")]
    pub config: PathBuf,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The subcommands; each has a file of its own in this directory.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a domain and attach to its console
    Run(Run),
    /// Print everything that a start would do, in order, and do nothing
    Plan(Plan),
    /// Tell whether a domain definition is libvirt's domain XML, and what of it would not be kept or not run
    Validate(Validate),
    /// Print a domain definition as svirt keeps it: libvirt's order, style and defaults
    Format(Format),
    /// Print the RELAX NG schema of domain definitions
    Schema,
    /// List the running domains
    List(List),
    /// Ask a guest to power off, or end it
    Stop(Stop),
    /// Attach to a console of a running domain; ^] leaves it
    Console(Console),
    /// Show what the kernel says of a domain's processes, next to the plan
    Inspect(Look),
    /// Put an attacker where a device model is, and say what got through and what stopped the rest
    Probe(Look),
    /// Play the neighbour that an attacker of `svirt probe` is aimed at; started by it
    #[command(hide = true)]
    Neighbour {
        /// The label to take on
        #[arg(long)]
        label: Option<String>,
    },
    /// Show which label each security model gives to each thing that a domain uses
    #[command(subcommand)]
    Label(Label),
    /// Print what this host can do: CPU, memory, security models, emulators
    Capabilities(Capabilities),
    /// Print what a domain may ask for on this host
    #[command(name = "domcapabilities")]
    DomCapabilities(DomCapabilities),
    /// Tell whether a host has what an appliance needs, and write the domain to deploy
    CheckAppliance(CheckAppliance),
    /// Show or check the configuration
    #[command(subcommand)]
    Config(Config),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual page of svirt or of one subcommand
    Man(Man),
}

/// `svirt run`
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The domain's definition: libvirt's domain XML; `-` reads standard input
    #[arg(value_name = "DOMAIN.XML")]
    pub definition: PathBuf,
    /// Return as soon as the guest runs
    #[arg(short, long)]
    pub detach: bool,
    /// Leave the virtual CPUs stopped
    #[arg(long)]
    pub paused: bool,
    /// Seconds that the guest gets to power off after SIGINT, SIGTERM or SIGHUP; then, or at a second signal, it is ended
    #[arg(short, long, default_value_t = 60, value_name = "SECONDS", conflicts_with = "detach",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub grace: u64,
}

/// `svirt plan`
#[derive(Debug, clap::Args)]
pub struct Plan {
    /// The domain's definition: libvirt's domain XML; `-` reads standard input
    #[arg(value_name = "DOMAIN.XML")]
    pub definition: PathBuf,
    /// Print the plan as the labeller gets it
    #[arg(long)]
    pub json: bool,
}

/// `svirt label`
#[derive(Debug, Subcommand)]
pub enum Label {
    /// Print each resource of a domain with the label, the action and the reason of every model
    Plan(LabelPlan),
    /// Print what labels of one domain of interpretation are in another, exactly, or refuse
    Translate(LabelTranslate),
}

/// `svirt label plan`
#[derive(Debug, clap::Args)]
pub struct LabelPlan {
    /// The domain's definition: libvirt's domain XML; `-` reads standard input
    #[arg(value_name = "DOMAIN.XML")]
    pub definition: PathBuf,
    /// The models to plan for; without it those that this host runs
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODEL")]
    pub model: Vec<LabelModel>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `svirt label translate`
#[derive(Debug, clap::Args)]
pub struct LabelTranslate {
    /// The security model: selinux or dac
    #[arg(long, value_enum, default_value_t = LabelModel::Selinux, value_name = "MODEL")]
    pub model: LabelModel,
    /// The domain of interpretation that the labels belong to
    #[arg(long, value_name = "DOI")]
    pub from: String,
    /// The domain of interpretation that they are wanted in
    #[arg(long, value_name = "DOI")]
    pub to: String,
    /// The labels; all are translated or none
    #[arg(required = true, value_name = "LABEL")]
    pub labels: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A security model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LabelModel {
    /// A profile of each process, and a rule for each file
    Apparmor,
    /// Uids and file owners
    Dac,
    /// Contexts of processes and files
    Selinux,
}

/// `svirt validate`
#[derive(Debug, clap::Args)]
pub struct Validate {
    /// The domain's definition: libvirt's domain XML; `-` reads standard input
    #[arg(value_name = "DOMAIN.XML")]
    pub definition: PathBuf,
    /// Refuse every name that libvirt's grammar does not have, as libvirt does under validation
    #[arg(long)]
    pub strict: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `svirt format`
#[derive(Debug, clap::Args)]
pub struct Format {
    /// The domain's definition: libvirt's domain XML; `-` reads standard input
    #[arg(value_name = "DOMAIN.XML")]
    pub definition: PathBuf,
    /// What is shown
    #[arg(long, value_enum, default_value_t = Shown::Inactive, value_name = "VIEW")]
    pub view: Shown,
}

/// Who a definition is printed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    /// Anybody: passwords are left out
    Inactive,
    /// Whoever may see passwords
    Secure,
    /// The receiver of a migration
    Migratable,
}

/// `svirt list`
#[derive(Debug, clap::Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `svirt stop`
#[derive(Debug, clap::Args)]
pub struct Stop {
    /// Name or uuid
    #[arg(value_name = "DOMAIN")]
    pub domain: String,
    /// End the device model at once, without asking the guest
    #[arg(short, long)]
    pub force: bool,
    /// Seconds for asking the guest and for its power-off together; what then still runs is an error
    #[arg(short, long, default_value_t = 60, value_name = "SECONDS", conflicts_with = "force",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// `svirt console`
#[derive(Debug, clap::Args)]
pub struct Console {
    /// Name or uuid
    #[arg(value_name = "DOMAIN")]
    pub domain: String,
    /// Which console, such as `serial0`; the first if absent
    #[arg(value_name = "ALIAS")]
    pub alias: Option<String>,
    /// Take the console from whoever holds it
    #[arg(short, long)]
    pub force: bool,
}

/// `svirt inspect` and `svirt probe`
#[derive(Debug, clap::Args)]
pub struct Look {
    /// Name or uuid
    #[arg(value_name = "DOMAIN", required_unless_present = "pid")]
    pub domain: Option<String>,
    /// A process instead, such as a QEMU that another manager started
    #[arg(long, conflicts_with = "domain", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `svirt capabilities`
#[derive(Debug, clap::Args)]
pub struct Capabilities {
    /// Which connection's view: qemu:///system, qemu:///session, test:///default or xen:///
    #[arg(long, default_value = "qemu:///system", value_name = "URI")]
    pub view: View,
    /// Ask the emulators again, whatever was found out before
    #[arg(long)]
    pub refresh: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `svirt domcapabilities`
#[derive(Debug, clap::Args)]
pub struct DomCapabilities {
    /// Which connection's view: qemu:///system or qemu:///session
    #[arg(long, default_value = "qemu:///system", value_name = "URI")]
    pub view: View,
    /// The machine type, such as q35 or pc
    #[arg(long, value_name = "MACHINE")]
    pub machine: Option<String>,
    /// The architecture
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<String>,
    /// kvm or qemu; the better one that works if absent
    #[arg(long, value_name = "TYPE")]
    pub virttype: Option<String>,
    /// The emulator's path; the first configured one if absent
    #[arg(long, value_name = "PATH")]
    pub emulator: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `svirt check-appliance`
#[derive(Debug, clap::Args)]
pub struct CheckAppliance {
    /// The appliance: virt-image's XML; `-` reads standard input
    #[arg(value_name = "IMAGE.XML")]
    pub appliance: PathBuf,
    /// Where the domain XML goes if the host fits
    #[arg(short, long, value_name = "DOMAIN.XML")]
    pub output: Option<PathBuf>,
    /// Another host instead of this one: what `svirt capabilities` or `virsh capabilities` printed there
    #[arg(long, value_name = "HOST.XML")]
    pub capabilities: Option<PathBuf>,
    /// Where the appliance's files lie or will lie; its own directory if absent
    #[arg(long, value_name = "DIRECTORY")]
    pub images: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `svirt config`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print every setting as it is in force
    Show,
    /// Tell whether the file is good
    Check,
}

/// `svirt completions`
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `svirt man`
#[derive(Debug, clap::Args)]
pub struct Man {
    /// A subcommand, such as `run`
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}
