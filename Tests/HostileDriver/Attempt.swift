/// A way out of the sandbox that a driver under someone else's control would try.
public enum Attempt: String, CaseIterable, Sendable {
    // Files.
    case readPasswords
    case readServerFile
    case writeServerFolder
    case listProcesses
    case traverse
    case followLink
    case makeLink
    case makeDevice
    case mount
    // Networks.
    case makeTCPSocket
    case makeUnixSocket
    case connectTCP
    case connectUnix
    case connectAbstract
    case connectOnRing
    // Other processes.
    case traceServer
    case readServerMemory
    case openServerMemory
    case takeServerDescriptor
    case signalServer
    case signalByDescriptor
    case outliveServer
    case becomeDumpable
    // Programs and processes.
    case execute
    case fork
    case vfork
    case cloneProcess
    case clone3Process
    case mapCode
    case protectCode
    // The kernel.
    case newRing
    case asynchronousIO
    case becomeRoot
    case becomeServerUser
    case newNamespace
    case raiseLimit
    case blockDoorbell
    case keyring
    case bpf
    // Too much.
    case takeMemory
    case takeSharedMemory
    case makeSharedMemory
    case openMany
    case manyThreads
    case growFile
    case fillOtherFolder

    /// How much each attempt at too much takes: far more than the sandbox of the tests gives.
    static let descriptors: Int32 = 700
    static let threads: Int32 = 300
    static let fileBytes: Int64 = 8 << 20
    static let memoryBytes: UInt64 = 1 << 40
    static let sharedBytes: UInt64 = 1 << 30
}
