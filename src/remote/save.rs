//! Calls that save domains, start them from there, and look at what takes long.

use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use crate::base::Files;
use crate::manager::{Goes, Handed, ManagerError, SavedDomain};
use crate::privsep::save::Progress;
use crate::rpc::{self, Encode, Encoder, List, ParamValue, Procedure, TypedParam, XdrError};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainAbortJob => |call| abort(call, false),
        P::DomainAbortJobFlags => |call| abort(call, true),
        P::DomainGetJobInfo => job_info,
        P::DomainGetJobStats => job_stats,
        P::DomainManagedSave => managed_save,
        P::DomainManagedSaveDefineXml => managed_define,
        P::DomainManagedSaveGetXmlDesc => managed_xml,
        P::DomainManagedSaveRemove => managed_remove,
        P::DomainRestore => |call| restore(call, call.arguments()?, None, 0),
        P::DomainRestoreFlags => restore_flags,
        P::DomainRestoreParams => restore_params,
        P::DomainSave => save_plain,
        P::DomainSaveFlags => save_flags,
        P::DomainSaveImageDefineXml => image_define,
        P::DomainSaveImageGetXmlDesc => image_xml,
        P::DomainSaveParams => save_params,
        _ => return None,
    })
}

/// virDomainSaveRestoreFlags
const BYPASS_CACHE: u32 = 1;
const RUNNING: u32 = 2;
const PAUSED: u32 = 4;
/// virDomainSaveImageXMLFlags
const SECURE: u32 = 1;

/// Reads the flags that saving and restoring have in common.
fn goes(call: &Call<'_>, flags: u32) -> Result<Goes, Failure> {
    call.only_flags(flags, BYPASS_CACHE | RUNNING | PAUSED)?;
    if flags & BYPASS_CACHE != 0 {
        let text = "QEMU writes through the page cache: bypassing it is not done; leave --bypass-cache away";
        return Err(ManagerError::Unsupported(text.into()).into());
    }
    only_running_or_paused(flags)
}

fn only_running_or_paused(flags: u32) -> Result<Goes, Failure> {
    match (flags & RUNNING != 0, flags & PAUSED != 0) {
        (true, true) => Err(Failure::new(
            Code::InvalidArgument,
            From::Domain,
            "running and paused flags are mutually exclusive",
        )),
        (true, false) => Ok(Goes::Running),
        (false, true) => Ok(Goes::Paused),
        (false, false) => Ok(Goes::AsBefore),
    }
}

fn save(call: &Call<'_>, dom: &rpc::Domain<'_>, to: &str, xml: Option<&str>, flags: u32) -> Answer {
    let target = call.domain(dom, flags)?;
    let goes = goes(call, flags)?;
    let (manager, uuid) = target.parts();
    let files = call.files(&target.domain.name, uuid, flags);
    let xml = xml.map(|xml| Handed { xml, files: &files });
    manager.save(uuid, to, xml, (call.session.uid(), goes))?;
    call.answer(&())
}

fn save_plain(call: &Call<'_>) -> Answer {
    let (dom, to): (rpc::Domain<'_>, &str) = call.arguments()?;
    save(call, &dom, to, None, 0)
}

fn save_flags(call: &Call<'_>) -> Answer {
    let (dom, to, xml, flags): (rpc::Domain<'_>, &str, Option<&str>, u32) = call.arguments()?;
    save(call, &dom, to, xml, flags)
}

fn save_params(call: &Call<'_>) -> Answer {
    let (dom, params, flags): (rpc::Domain<'_>, List<TypedParam<'_>, 64>, u32) = call.arguments()?;
    let (to, xml) = file_and_xml(&params)?;
    save(call, &dom, to, xml, flags)
}

fn restore(call: &Call<'_>, from: &str, xml: Option<&str>, flags: u32) -> Answer {
    let goes = goes(call, flags)?;
    let saved = call.saved(from, flags)?;
    let files = files(call, &saved, flags)?;
    call.manager().restore(&saved, xml, &files, goes).map_err(|error| call.unseen(error))?;
    call.answer(&())
}

/// What a definition of what is saved may name of the host.
fn files(call: &Call<'_>, saved: &SavedDomain, flags: u32) -> Result<Files, Failure> {
    Ok(call.files(&saved.definition()?.name, saved.uuid, flags))
}

fn restore_flags(call: &Call<'_>) -> Answer {
    let (from, xml, flags): (&str, Option<&str>, u32) = call.arguments()?;
    restore(call, from, xml, flags)
}

fn restore_params(call: &Call<'_>) -> Answer {
    let (params, flags): (List<TypedParam<'_>, 64>, u32) = call.arguments()?;
    let (from, xml) = file_and_xml(&params)?;
    restore(call, from, xml, flags)
}

/// VIR_DOMAIN_SAVE_PARAM_FILE and VIR_DOMAIN_SAVE_PARAM_DXML; without a file libvirt takes the managed one.
fn file_and_xml<'a>(params: &List<TypedParam<'a>, 64>) -> Result<(&'a str, Option<&'a str>), Failure> {
    let wrong = |text: String| Failure::new(Code::InvalidArgument, From::Domain, text);
    let (mut file, mut xml) = (None, None);
    for param in &params.0 {
        match (param.field, &param.value) {
            ("file", ParamValue::Text(text)) => file = Some(*text),
            ("dxml", ParamValue::Text(text)) => xml = Some(*text),
            (other, _) => return Err(wrong(format!("parameter '{other}' not supported"))),
        }
    }
    let file = file.ok_or_else(|| wrong("it names no file: managedsave needs none".into()))?;
    Ok((file, xml))
}

fn image_xml(call: &Call<'_>) -> Answer {
    let (file, flags): (&str, u32) = call.arguments()?;
    call.only_flags(flags, SECURE)?;
    call.answer(&call.saved(file, flags)?.definition()?.view(flags & SECURE != 0))
}

fn image_define(call: &Call<'_>) -> Answer {
    let (file, xml, flags): (&str, &str, u32) = call.arguments()?;
    call.only_flags(flags, RUNNING | PAUSED)?;
    let goes = only_running_or_paused(flags)?;
    let saved = call.saved(file, flags)?;
    let files = files(call, &saved, flags)?;
    call.manager().redefine_saved(&saved, Some(Handed { xml, files: &files }), goes)?;
    call.answer(&())
}

fn managed_save(call: &Call<'_>) -> Answer {
    let (dom, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&dom, flags)?;
    let goes = goes(call, flags)?;
    let (manager, uuid) = target.parts();
    manager.managed_save(uuid, call.session.uid(), goes)?;
    call.answer(&())
}

fn managed_remove(call: &Call<'_>) -> Answer {
    let (dom, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&dom, flags)?;
    call.only_flags(flags, 0)?;
    let (manager, uuid) = target.parts();
    manager.remove_managed_save(uuid)?;
    call.answer(&())
}

fn managed_xml(call: &Call<'_>) -> Answer {
    let (dom, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&dom, flags)?;
    call.only_flags(flags, SECURE)?;
    let (manager, uuid) = target.parts();
    call.answer(&manager.managed_save_of(uuid)?.definition()?.view(flags & SECURE != 0))
}

fn managed_define(call: &Call<'_>) -> Answer {
    let (dom, xml, flags): (rpc::Domain<'_>, Option<&str>, u32) = call.arguments()?;
    let target = call.domain(&dom, flags)?;
    call.only_flags(flags, RUNNING | PAUSED)?;
    let goes = only_running_or_paused(flags)?;
    let (manager, uuid) = target.parts();
    let files = call.files(&target.domain.name, uuid, flags);
    let xml = xml.map(|xml| Handed { xml, files: &files });
    manager.redefine_saved(&manager.managed_save_of(uuid)?, xml, goes)?;
    call.answer(&())
}

fn abort(call: &Call<'_>, with_flags: bool) -> Answer {
    let (dom, flags): (rpc::Domain<'_>, u32) =
        if with_flags { call.arguments()? } else { (call.arguments()?, 0) };
    let target = call.domain(&dom, flags)?;
    // Postcopy is for migrations.
    call.only_flags(flags, 0)?;
    let (manager, uuid) = target.parts();
    manager.abort_job(uuid)?;
    call.answer(&())
}

/// virDomainJobType
const NONE: i32 = 0;
const UNBOUNDED: i32 = 2;
const COMPLETED: i32 = 3;

struct Words<'a>(&'a [u64]);

impl Encode for Words<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        self.0.iter().try_for_each(|word| to.put(word))
    }
}

fn not_running() -> Failure {
    Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running")
}

/// Elapsed and left, then total, processed and left of everything, of memory and of files.
fn job_info(call: &Call<'_>) -> Answer {
    let dom: rpc::Domain<'_> = call.arguments()?;
    let target = call.domain(&dom, 0)?;
    if !target.domain.is_active() {
        return Err(not_running());
    }
    let (manager, uuid) = target.parts();
    let Some(p) = manager.progress(uuid)? else { return call.answer(&(NONE, Words(&[0; 11]))) };
    let Progress { elapsed, total, processed, remaining, .. } = p;
    let words = [elapsed, 0, total, processed, remaining, total, processed, remaining, 0, 0, 0];
    call.answer(&(UNBOUNDED, Words(&words)))
}

/// virDomainGetJobStatsFlags: of the last one, kept or not.
const STATS_COMPLETED: u32 = 1;
const STATS_KEEP_COMPLETED: u32 = 2;

fn job_stats(call: &Call<'_>) -> Answer {
    let (dom, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&dom, flags)?;
    call.only_flags(flags, STATS_COMPLETED | STATS_KEEP_COMPLETED)?;
    let (manager, uuid) = target.parts();
    let (kind, found) = if flags & STATS_COMPLETED != 0 {
        (COMPLETED, manager.completed(uuid, flags & STATS_KEEP_COMPLETED != 0))
    } else if target.domain.is_active() {
        (UNBOUNDED, manager.progress(uuid)?)
    } else {
        return Err(not_running());
    };
    match found {
        Some(progress) => {
            let dumps = kind == UNBOUNDED && manager.is_dumping(uuid);
            let operation = if dumps { OPERATION_DUMP } else { OPERATION_SAVE };
            call.answer(&(kind, List::<_, 64>(params_of(operation, &progress))))
        }
        None => call.answer(&(NONE, List::<TypedParam<'_>, 64>(Vec::new()))),
    }
}

/// virDomainJobOperation
const OPERATION_SAVE: i32 = 2;
const OPERATION_DUMP: i32 = 8;

/// A save's numbers as libvirt names them, in its order.
pub(super) fn params(p: &Progress) -> Vec<TypedParam<'static>> {
    params_of(OPERATION_SAVE, p)
}

fn params_of(operation: i32, p: &Progress) -> Vec<TypedParam<'static>> {
    let number = |field, value| TypedParam { field, value: ParamValue::Ullong(value) };
    vec![
        TypedParam { field: "operation", value: ParamValue::Int(operation) },
        number("time_elapsed", p.elapsed),
        number("downtime", p.downtime),
        number("setup_time", p.setup),
        number("data_total", p.total),
        number("data_processed", p.processed),
        number("data_remaining", p.remaining),
        number("memory_total", p.total),
        number("memory_processed", p.processed),
        number("memory_remaining", p.remaining),
        number("memory_bps", p.rate),
        number("memory_constant", p.constant),
        number("memory_normal", p.normal),
        number("memory_normal_bytes", p.normal_bytes),
        number("memory_dirty_rate", p.dirty),
        number("memory_iteration", p.iterations),
        number("memory_postcopy_requests", p.asked),
        number("memory_page_size", p.page),
    ]
}
