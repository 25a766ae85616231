import CFUSE
import Glibc

/// One libfuse session: its mount, its messages, and the way from its C callbacks to a `FuseFileSystem`.
///
/// One thread. The process that holds it must never touch the mount itself: it would wait for its own answer.
@safe final class FuseSession {
    private let session: OpaquePointer
    private var isMounted = false
    /// Where the mount is that another process made, and this one has to take away.
    private var adoptedFolder: String?

    /// A session that is not mounted yet; `source` is what the mount table shows, without a comma.
    /// `fileSystem` must outlive the session.
    init(serving fileSystem: FuseFileSystem, source: String) throws(AttachError) {
        var arguments = unsafe fuse_args(argc: 0, argv: nil, allocated: 0)
        defer { unsafe fuse_opt_free_args(&arguments) }
        let options =
            "fsname=\(source),subtype=sluice,max_read=\(AttachLimits.transferBytesMax),"
            + "default_permissions,noatime"
        for argument in ["sluice", "-o", options] {
            guard unsafe fuse_opt_add_arg(&arguments, argument) == 0 else {
                throw AttachError(.system, "out of memory for the FUSE session")
            }
        }
        var operations = FuseFileSystem.operations
        let session = unsafe fuse_session_new(
            &arguments, &operations, MemoryLayout<fuse_lowlevel_ops>.size,
            Unmanaged.passUnretained(fileSystem).toOpaque())
        guard let session = unsafe session else {
            throw AttachError(.system, "libfuse refused to make a session; its reason is in the log above")
        }
        unsafe self.session = unsafe session
    }

    deinit {
        unmount()
        unsafe fuse_session_destroy(session)
        // The connection is cut now, so that nothing waits for this process's answer.
        if let adoptedFolder { try? FuseMount.remove(adoptedFolder) }
    }

    /// Goes on with a mount that another process made at `folder`: `descriptor`, which becomes the session's
    /// own, is its /dev/fuse, and `greeting` the kernel's first message on it.
    ///
    /// libfuse takes no request before it has seen that message. What it answers, the kernel refuses, since it
    /// has its answer already.
    func adopt(descriptor: Int32, greeting: [UInt8], folder: String) throws(AttachError) {
        guard unsafe fuse_session_mount(session, "/dev/fd/\(descriptor)") == 0 else {
            throw AttachError(.system, "libfuse cannot go on with the descriptor of another process")
        }
        adoptedFolder = folder
        var bytes = greeting
        let count = bytes.count
        unsafe bytes.withUnsafeMutableBytes { bytes in
            var message = unsafe fuse_buf()
            unsafe message.mem = bytes.baseAddress
            unsafe message.size = count
            unsafe process(&message)
        }
    }

    /// Leaves the mount to another process.
    func leave() {
        isMounted = false
        adoptedFolder = nil
    }

    /// Mounts at an existing folder. The returned descriptor never blocks, and is the session's own.
    func mount(at folder: String) throws(AttachError) -> Int32 {
        guard unsafe fuse_session_mount(session, folder) == 0 else {
            throw AttachError(
                .denied,
                "cannot mount FUSE at \(folder): it needs root and the kernel module fuse (modprobe fuse)")
        }
        isMounted = true
        let descriptor = unsafe fuse_session_fd(session)
        let flags = fcntl(descriptor, F_GETFL)
        guard flags >= 0, fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 else {
            throw .system(errno, "cannot make /dev/fuse non-blocking")
        }
        return descriptor
    }

    /// Takes the next message of the kernel: its bytes, 0 when the session has ended, or -errno
    /// (`-EAGAIN`: none now).
    func receive(into buffer: inout fuse_buf) -> Int32 {
        unsafe fuse_session_receive_buf(session, &buffer)
    }

    /// Handles the message that `receive` took; the file system's methods run before this returns.
    func process(_ buffer: inout fuse_buf) {
        unsafe fuse_session_process_buf(session, &buffer)
    }

    /// Cuts the connection and takes the mount away, if it is still there. Every request must have been
    /// answered.
    func unmount() {
        guard isMounted else { return }
        isMounted = false
        unsafe fuse_session_unmount(session)
    }
}

/// What libfuse's callbacks call. Each method answers its request exactly once, now or later.
///
/// A class and not a protocol, since a C callback cannot know a generic type.
class FuseFileSystem {
    /// Sets what the connection may do.
    final func connected(_ connection: UnsafeMutablePointer<fuse_conn_info>) {
        unsafe sluice_fuse_configure(
            connection, AttachLimits.transferBytesMax, UInt32(AttachLimits.requestsMax))
    }

    func lookup(_ request: fuse_req_t, parent: fuse_ino_t, name: UnsafePointer<CChar>) {
        unsafe fuse_reply_err(request, ENOENT)
    }

    func attributes(_ request: fuse_req_t, inode: fuse_ino_t) { unsafe fuse_reply_err(request, ENOENT) }
    func open(_ request: fuse_req_t, inode: fuse_ino_t, flags: Int32) { unsafe fuse_reply_err(request, EIO) }
    func read(_ request: fuse_req_t, offset: Int64, count: Int) { unsafe fuse_reply_err(request, EIO) }

    /// `bytes` lie in the buffer that the message was received into.
    func write(_ request: fuse_req_t, offset: Int64, bytes: UnsafeMutableRawPointer, count: Int) {
        unsafe fuse_reply_err(request, EIO)
    }

    func flush(_ request: fuse_req_t) { unsafe fuse_reply_err(request, EIO) }
    func allocate(_ request: fuse_req_t, mode: Int32, offset: Int64, length: Int64) {
        unsafe fuse_reply_err(request, EOPNOTSUPP)
    }

    func statistics(_ request: fuse_req_t) { unsafe fuse_reply_err(request, EIO) }
}

/// The file system that a request is for.
private func serving(_ request: fuse_req_t?) -> FuseFileSystem {
    // SAFETY: the session's user data is the file system that made it, which outlives it.
    unsafe Unmanaged<FuseFileSystem>.fromOpaque(fuse_req_userdata(request)).takeUnretainedValue()
}

extension FuseFileSystem {
    /// libfuse's table of callbacks.
    fileprivate static var operations: fuse_lowlevel_ops {
        var table = fuse_lowlevel_ops()
        unsafe table.`init` = { userData, connection in
            // SAFETY: as in `serving`.
            guard let userData = unsafe userData, let connection = unsafe connection else { return }
            unsafe Unmanaged<FuseFileSystem>.fromOpaque(userData).takeUnretainedValue().connected(connection)
        }
        unsafe table.lookup = { request, parent, name in
            unsafe serving(request).lookup(request!, parent: parent, name: name!)
        }
        unsafe table.getattr = { request, inode, _ in
            unsafe serving(request).attributes(request!, inode: inode)
        }
        unsafe table.open = { request, inode, information in
            unsafe serving(request).open(request!, inode: inode, flags: information!.pointee.flags)
        }
        unsafe table.read = { request, _, count, offset, _ in
            unsafe serving(request).read(request!, offset: Int64(offset), count: count)
        }
        unsafe table.write_buf = { request, _, vector, offset, _ in
            guard let bytes = unsafe sluice_fuse_write_bytes(vector) else {
                _ = unsafe fuse_reply_err(request, EIO)
                return
            }
            unsafe serving(request).write(
                request!, offset: Int64(offset), bytes: bytes, count: sluice_fuse_write_count(vector))
        }
        unsafe table.fsync = { request, _, _, _ in unsafe serving(request).flush(request!) }
        unsafe table.flush = { request, _, _ in _ = unsafe fuse_reply_err(request, 0) }
        unsafe table.release = { request, _, _ in _ = unsafe fuse_reply_err(request, 0) }
        unsafe table.fallocate = { request, _, mode, offset, length, _ in
            unsafe serving(request).allocate(
                request!, mode: mode, offset: Int64(offset), length: Int64(length))
        }
        unsafe table.statfs = { request, _ in unsafe serving(request).statistics(request!) }
        return table
    }
}
