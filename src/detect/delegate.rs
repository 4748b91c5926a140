//! An external TFLite delegate: loaded with its options, its version, and how much of a model it takes. Runs nothing itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use edgefirst_tflite::{Delegate, DelegateOptions};
use edgefirst_tflite_sys::{TfLiteContext, TfLiteDelegate, TfLiteIntArray, TfLiteStatus};
use parking_lot::Mutex;

use super::locate;
use crate::config;

/// Delegates' libraries, kept loaded for ever: like TFLite itself they leave threads and destructors behind.
/// By path, with the version that the library tells of itself.
static KEPT: Mutex<BTreeMap<PathBuf, Option<String>>> = Mutex::new(BTreeMap::new());

/// Loads a delegate.
///
/// # Errors
/// What is wrong with the file, with what it exports or with its options.
pub(super) fn load(wanted: &config::Delegate) -> Result<Delegate, String> {
    let path = &wanted.path;
    if path.components().count() > 1
        && let Some(fault) = locate::library_fault(path)
    {
        return Err(fault);
    }
    keep(path)?;
    let options = wanted
        .options
        .iter()
        .fold(DelegateOptions::new(), |options, (key, value)| options.option(key, value));
    Delegate::load_with_options(path, &options).map_err(|e| {
        let said = e.to_string();
        if said.contains("returned null") {
            return "made no delegate: its accelerator is missing or in use, or it does not take these detect.delegate.options"
                .into();
        }
        said
    })
}

/// Loads the library once more than whoever uses it, so that it is never unloaded.
#[allow(unsafe_code)]
fn keep(path: &Path) -> Result<(), String> {
    // Not held while loading, which runs the library's own code and may hang.
    if KEPT.lock().contains_key(path) {
        return Ok(());
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: the name is a C string; dlerror is asked on the thread that failed and its text is copied before any other call.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        // SAFETY: as above; dlerror returns a C string or null.
        let said = unsafe { libc::dlerror() };
        let said = if said.is_null() {
            "cannot be loaded".into()
        } else {
            // SAFETY: tested for null just now, and a C string as the loader promises.
            unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned()
        };
        return Err(said);
    }
    for symbol in [c"tflite_plugin_create_delegate", c"tflite_plugin_destroy_delegate"] {
        // SAFETY: the handle is open and the name a C string; what it points to is not called.
        if unsafe { libc::dlsym(handle, symbol.as_ptr()) }.is_null() {
            let symbol = symbol.to_string_lossy();
            return Err(format!("has no function {symbol}, so it is not a TFLite delegate"));
        }
    }
    // SAFETY: the handle is open and the name a C string.
    let teller = unsafe { libc::dlsym(handle, c"edgetpu_version".as_ptr()) };
    let version = (!teller.is_null()).then(|| {
        // SAFETY: libedgetpu declares `const char* edgetpu_version()`; no other library exports the name.
        let tell: unsafe extern "C" fn() -> *const c_char = unsafe { std::mem::transmute(teller) };
        // SAFETY: called as declared; it returns a static string.
        let text = unsafe { tell() };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: tested for null just now.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    });
    KEPT.lock().insert(path.to_path_buf(), version);
    Ok(())
}

/// The delegate's version: what it tells, else what its file is called behind all links ("libedgetpu.so.1.0").
pub(super) fn version(path: &Path) -> String {
    let told = KEPT.lock().get(path).cloned().flatten();
    let file = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let file = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    match told.filter(|t| !t.is_empty()) {
        Some(told) => format!("{file} {told}"),
        None => file,
    }
}

/// How many of a model's operations a delegate took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) taken: usize,
    pub(super) of: usize,
}

type Prepare = unsafe extern "C" fn(*mut TfLiteContext, *mut TfLiteDelegate) -> TfLiteStatus;

/// Listens while an interpreter is built on this thread: a delegate that takes nothing would leave all the work to the CPU
/// and nobody would see it.
#[derive(Debug)]
pub(super) struct Counted {
    /// Not listening to delegates of the opaque kind, whose graph is hidden.
    listening: bool,
}

struct Listening {
    prepare: Prepare,
    share: Option<Share>,
}

thread_local! {
    static LISTENING: RefCell<Option<Listening>> = const { RefCell::new(None) };
}

impl Counted {
    /// Puts itself in front of the delegate's own `Prepare`, which TFLite calls once, while the interpreter is built.
    #[allow(unsafe_code)]
    pub(super) fn begin(delegate: &Delegate) -> Self {
        // SAFETY: the pointer is the live delegate's own, nobody else reads it before the interpreter is built, and plugins
        // make it in memory of their own that is writable (TFLite itself writes to it).
        let raw = unsafe { &mut *delegate.as_ptr() };
        let own = raw.Prepare.filter(|_| raw.opaque_delegate_builder.is_null());
        if let Some(prepare) = own {
            LISTENING.set(Some(Listening { prepare, share: None }));
            raw.Prepare = Some(prepare_and_count);
        }
        Self { listening: own.is_some() }
    }

    /// What was counted.
    pub(super) fn end(self) -> Option<Share> {
        if self.listening { LISTENING.take().and_then(|l| l.share) } else { None }
    }
}

/// The delegate's `Prepare`, then a look at which operations became its own.
#[allow(unsafe_code)]
unsafe extern "C" fn prepare_and_count(
    context: *mut TfLiteContext,
    delegate: *mut TfLiteDelegate,
) -> TfLiteStatus {
    let own = LISTENING.with_borrow(|l| l.as_ref().map(|l| l.prepare));
    let Some(prepare) = own else {
        return edgefirst_tflite_sys::TfLiteStatus_kTfLiteDelegateError;
    };
    // SAFETY: TFLite gave us both pointers for this very call.
    let of = unsafe { left_to_others(context, std::ptr::null()) };
    // SAFETY: as TFLite would have called it.
    let status = unsafe { prepare(context, delegate) };
    // SAFETY: still inside the call in which a delegate may look at the graph.
    let left = unsafe { left_to_others(context, delegate) };
    if let (Some(of), Some(left)) = (of, left) {
        let share = Share { taken: of.saturating_sub(left), of };
        LISTENING.with_borrow_mut(|l| {
            if let Some(l) = l {
                l.share = Some(share);
            }
        });
    }
    status
}

/// Operations of the plan that are not `delegate`'s.
///
/// # Safety
/// Only inside a delegate's `Prepare`, with its context.
#[allow(unsafe_code)]
unsafe fn left_to_others(
    context: *mut TfLiteContext,
    delegate: *const TfLiteDelegate,
) -> Option<usize> {
    // SAFETY: the caller's context is TFLite's own.
    let (plan_of, node_of) =
        unsafe { ((*context).GetExecutionPlan?, (*context).GetNodeAndRegistration?) };
    let mut plan: *mut TfLiteIntArray = std::ptr::null_mut();
    // SAFETY: a function of the context, called with it, as delegates do.
    let status = unsafe { plan_of(context, &raw mut plan) };
    if status != 0 || plan.is_null() {
        return None;
    }
    // SAFETY: the plan is an array of `size` ints that lives until the next call of GetExecutionPlan, which is after the copy.
    let nodes: Vec<i32> = unsafe {
        let length = usize::try_from((*plan).size).ok()?;
        std::slice::from_raw_parts((*plan).data.as_ptr(), length).to_vec()
    };
    let mut left = 0;
    for index in nodes {
        let (mut node, mut registration) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: an index out of the plan, and places to write to.
        let status = unsafe { node_of(context, index, &raw mut node, &raw mut registration) };
        if status != 0 || node.is_null() {
            return None;
        }
        // SAFETY: the node is TFLite's and lives during the call.
        left +=
            usize::from(unsafe { (*node).delegate }.cast_const() != delegate || delegate.is_null());
    }
    Some(left)
}
