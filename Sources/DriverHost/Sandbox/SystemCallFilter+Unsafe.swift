import CSandbox
import Glibc

// SAFETY: the context is made by init and released by deinit; libseccomp copies what it is given.
/// A seccomp filter (`seccomp(2)`) by libseccomp.
@safe
final class SystemCallFilter {
    private let context: scmp_filter_ctx

    /// Compiles the rules.
    init(_ rules: SystemCallRules) throws(SandboxError) {
        guard let context = unsafe seccomp_init(sluice_action_fail(EPERM)) else {
            throw .system(call: "seccomp_init", errno: ENOMEM)
        }
        unsafe self.context = unsafe context
        // A 32-bit call on a 64-bit kernel has other numbers, which no rule below would catch.
        try set(SCMP_FLTATR_ACT_BADARCH, sluice_action_kill())
        // A binary tree: the number of rules does not show in the time of a call.
        try set(SCMP_FLTATR_CTL_OPTIMIZE, 2)
        for group in rules.allowed {
            for call in group.calls { try allow(call, group.alternatives) }
        }
        for call in SystemCallRules.absent { try add(sluice_action_fail(ENOSYS), call, []) }
        for group in SystemCallRules.fatal {
            for call in group.calls { try add(sluice_action_kill(), call, []) }
        }
    }

    deinit { unsafe seccomp_release(context) }

    /// Puts this thread, and those that it starts, under the filter.
    func load() throws(SandboxError) {
        try check("seccomp_load", unsafe seccomp_load(context))
    }

    private func allow(_ call: String, _ alternatives: [[SystemCallRules.Argument]]) throws(SandboxError) {
        if alternatives.isEmpty { return try add(sluice_action_allow(), call, []) }
        for arguments in alternatives { try add(sluice_action_allow(), call, arguments) }
    }

    private func add(
        _ action: UInt32, _ call: String, _ arguments: [SystemCallRules.Argument]
    ) throws(SandboxError) {
        let number = unsafe seccomp_syscall_resolve_name(call)
        // A call that this libseccomp has not heard of is refused like any other.
        if number == __NR_SCMP_ERROR { return }
        let comparisons = arguments.map {
            scmp_arg_cmp(arg: $0.index, op: SCMP_CMP_MASKED_EQ, datum_a: $0.mask, datum_b: $0.value)
        }
        let result = unsafe comparisons.withUnsafeBufferPointer {
            unsafe seccomp_rule_add_array(
                context, action, number, UInt32($0.count), $0.isEmpty ? nil : $0.baseAddress)
        }
        try check("seccomp_rule_add \(call)", result)
    }

    private func set(_ attribute: scmp_filter_attr, _ value: UInt32) throws(SandboxError) {
        try check("seccomp_attr_set", unsafe seccomp_attr_set(context, attribute, value))
    }

    private func check(_ call: String, _ result: Int32) throws(SandboxError) {
        if result < 0 { throw .system(call: call, errno: -result) }
    }
}
