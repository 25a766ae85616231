import CSandbox
import Glibc
import Reactor

/// A Landlock ruleset (`landlock(7)`): which files a process may touch, whatever its user may.
final class Landlock {
    /// Rights on files as the kernel numbers them.
    private struct Rights: OptionSet {
        let rawValue: UInt64

        static let writeFile = Rights(rawValue: 1 << 1)
        static let readFile = Rights(rawValue: 1 << 2)
        static let readFolder = Rights(rawValue: 1 << 3)
        static let removeFolder = Rights(rawValue: 1 << 4)
        static let removeFile = Rights(rawValue: 1 << 5)
        static let makeFolder = Rights(rawValue: 1 << 7)
        static let makeFile = Rights(rawValue: 1 << 8)
        static let truncate = Rights(rawValue: 1 << 14)
        static let device = Rights(rawValue: 1 << 15)

        /// Every right that a kernel of this ABI knows: what is handled is refused unless a rule gives it.
        static func known(abi: Int32) -> Rights {
            let bits =
                switch abi {
                case 1: 13
                case 2: 14
                case 3, 4: 15
                default: 16
                }
            return Rights(rawValue: 1 << UInt64(bits) - 1)
        }

        /// Making, reading, writing and removing files and folders: no programs, links, sockets or devices.
        static let folder: Rights = [
            .writeFile, .readFile, .readFolder, .removeFolder, .removeFile, .makeFolder, .makeFile, .truncate,
        ]
        static let file: Rights = [.writeFile, .readFile, .truncate, .device]
    }

    private let ruleset: FileDescriptor
    /// What this kernel's Landlock does not cover, in plain sentences.
    let gaps: [String]

    /// Prepares the rules of a policy; nil where the kernel has no Landlock.
    init?(_ policy: SandboxPolicy) throws(SandboxError) {
        let abi = sluice_landlock_abi()
        if abi < 1 { return nil }
        let known = Rights.known(abi: abi)
        var rules = sluice_landlock_ruleset()
        rules.files = known.rawValue
        // Bind and connect of TCP.
        if !policy.network { rules.network = 3 }
        // Abstract Unix sockets, and signals to processes outside.
        rules.scoped = 3
        let made = unsafe sluice_landlock_create(&rules, abi)
        if made < 0 { throw .system(call: "landlock_create_ruleset", errno: -made) }
        ruleset = FileDescriptor(owning: made)
        gaps = Landlock.gaps(abi: abi)
        try allow(policy.folder, Rights.folder.intersection(known))
        for path in policy.paths {
            let opened = unsafe open(path, Int32(SLUICE_O_PATH) | O_CLOEXEC)
            if opened < 0 { throw .system(call: "open \(path)", errno: errno) }
            let file = FileDescriptor(owning: opened)
            try allow(file.raw, Rights.file.intersection(known))
        }
    }

    private static func gaps(abi: Int32) -> [String] {
        var gaps: [String] = []
        if abi < 3 { gaps.append("This kernel's Landlock cannot keep a driver from cutting files short.") }
        if abi < 6 {
            gaps.append(
                "This kernel's Landlock cannot scope signals and abstract sockets; seccomp still does.")
        }
        return gaps
    }

    private func allow(_ parent: Int32, _ rights: Rights) throws(SandboxError) {
        let result = sluice_landlock_allow(ruleset.raw, parent, rights.rawValue)
        if result < 0 { throw .system(call: "landlock_add_rule", errno: -result) }
    }

    /// Puts this thread, and those that it starts, under the rules; wants no_new_privs.
    func enter() throws(SandboxError) {
        let result = sluice_landlock_enter(ruleset.raw)
        if result < 0 { throw .system(call: "landlock_restrict_self", errno: -result) }
    }
}
