import CURing
import Core
import Glibc

/// Why a reactor, a socket, a child process or a device operation of this module failed.
public enum ReactorError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The kernel was built without io_uring (`ENOSYS`).
    case notInKernel
    /// `kernel.io_uring_disabled` forbids io_uring to this process.
    case disabledBySysctl(value: Int)
    /// A seccomp profile or a security module forbids io_uring (`EPERM`, `EACCES`), as containers do by
    /// default.
    case forbidden
    /// The memory that a process may lock is too small for the ring (`ENOMEM`, `RLIMIT_MEMLOCK`).
    case lockedMemory
    /// The kernel lacks a feature that the reactor needs.
    case kernelTooOld(missing: String)
    /// The text is not an address.
    case badAddress(String)
    /// A system call failed with a positive errno.
    case system(call: String, errno: Int32)

    /// Which kind of failure this is.
    public var kind: ErrorKind {
        switch self {
        case .notInKernel, .disabledBySysctl, .forbidden, .lockedMemory, .kernelTooOld, .badAddress: .caller
        case .system(_, let errno): Status.fromDevice(errno: errno).kind ?? .device
        }
    }

    /// The errno of a failed system call; nil for the other cases.
    public var errno: Int32? {
        if case .system(_, let errno) = self { errno } else { nil }
    }

    /// What failed and what to do about it, in one or two sentences.
    public var description: String {
        switch self {
        case .notInKernel:
            "io_uring is not in this kernel. Use Linux 6.1 or newer with CONFIG_IO_URING=y."
        case .disabledBySysctl(let value):
            "io_uring is switched off: kernel.io_uring_disabled is \(value). "
                + "Run `sysctl -w kernel.io_uring_disabled=0` and put it into /etc/sysctl.d to keep it."
        case .forbidden:
            "io_uring is forbidden to this process, in a container most likely by its seccomp profile. "
                + "Allow io_uring_setup, io_uring_enter and io_uring_register in the profile, or start the "
                + "container with `--security-opt seccomp=unconfined`."
        case .lockedMemory:
            "There is not enough lockable memory for an io_uring. Raise RLIMIT_MEMLOCK: "
                + "`ulimit -l unlimited`, or `LimitMEMLOCK=infinity` in the systemd unit."
        case .kernelTooOld(let missing):
            "This kernel's io_uring lacks \(missing). Use Linux 6.1 or newer."
        case .badAddress(let text):
            "\"\(text)\" is not an address. Write ADDRESS:PORT with a numeric address, "
                + "such as 127.0.0.1:7481 or [::1]:7481."
        case .system(let call, let errno):
            "\(call): \(ReactorError.text(errno: errno))"
        }
    }

    /// The system's words for a positive errno.
    public static func text(errno: Int32) -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        let text = unsafe buffer.withUnsafeMutableBufferPointer { (bytes) -> String in
            guard let base = bytes.baseAddress, unsafe sluice_error_text(errno, base, bytes.count) != 0 else {
                return "error \(errno)"
            }
            return unsafe String(cString: base)
        }
        return text
    }

    /// What `io_uring_setup(2)` means with this positive errno.
    static func fromSetup(errno: Int32) -> ReactorError {
        switch errno {
        case ENOSYS: return .notInKernel
        case EPERM, EACCES:
            let value = readSysctl("/proc/sys/kernel/io_uring_disabled")
            return value > 0 ? .disabledBySysctl(value: value) : .forbidden
        case ENOMEM: return .lockedMemory
        default: return .system(call: "io_uring_setup", errno: errno)
        }
    }

    private static func readSysctl(_ path: String) -> Int {
        let fd = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard fd >= 0 else { return 0 }
        defer { _ = Glibc.close(fd) }
        var digits = [UInt8](repeating: 0, count: 16)
        let count = unsafe digits.withUnsafeMutableBytes { unsafe read(fd, $0.baseAddress, $0.count) }
        guard count > 0 else { return 0 }
        return digits.prefix(count).reduce(into: 0) { value, byte in
            if byte >= 48 && byte <= 57 { value = value * 10 + Int(byte - 48) }
        }
    }
}

/// Calls that return -1 and errno, as typed errors.
@inline(__always)
func checked(_ call: String, _ result: Int32) throws(ReactorError) -> Int32 {
    if result < 0 { throw .system(call: call, errno: errno) }
    return result
}
