import Core
import Logging

/// The folder of the markers' files, and the decision which of them can be relied on.
///
/// Blocks; never on a reactor's thread.
public struct MarkerFolder: Sendable {
    private let path: String
    /// The machine's run.
    private let boot: Identifier
    private let logger: Logger

    /// A folder that may have to be made; `boot` differs with every run of the machine.
    public init(path: String, boot: Identifier, logger: Logger) {
        self.path = path
        self.boot = boot
        self.logger = logger
    }

    private static let suffix = ".marker"

    private func name(_ volume: Identifier, _ marker: Identifier) -> String {
        "\(volume.hex)-\(marker.hex)\(MarkerFolder.suffix)"
    }

    private func file(_ volume: Identifier, _ marker: Identifier) -> String {
        "\(path)/\(name(volume, marker))"
    }

    /// Makes the file of a new marker of a volume that has `size` bytes.
    func create(_ marker: Identifier, of volume: Identifier, size: UInt64) throws(StatusError)
        -> MarkerBitmap
    {
        let header = MarkerHeader(volume: volume, marker: marker, size: size, boot: boot)
        let file = file(volume, marker)
        let code = MarkerFile.makeFolder(path)
        guard code == 0 else { throw failure("made", MarkerFileError(errno: code)) }
        switch MarkerFile.create(file, header) {
        case .failure(let error): throw failure("made", error)
        case .success(let fd):
            guard let bitmap = MarkerBitmap(fd: fd, header: header) else {
                _ = MarkerFile.remove(file)
                throw StatusError(.internalError, "the marker's file cannot be mapped")
            }
            return bitmap
        }
    }

    /// Takes a marker of before the server's start into use; nil when what was changed since it was set is not known.
    ///
    /// - Parameters:
    ///   - size: of the volume; one that shrank is not the one that was marked.
    ///   - isLost: whether the volume's contents are not those of before the start.
    /// - Throws: when a file that cannot be relied on cannot be removed: the next start would rely on it.
    func restore(
        _ marker: Identifier, of volume: Identifier, size: UInt64, isLost: Bool
    ) throws(StatusError) -> MarkerBitmap? {
        let file = file(volume, marker)
        if !isLost, let bitmap = trusted(file, marker, volume, size) { return bitmap }
        logger.warning(
            "a marker is not complete: all of its volume counts as changed",
            metadata: ["volume": "\(volume)", "marker": "\(marker)"])
        let code = MarkerFile.remove(file)
        guard code == 0 else { throw failure("removed", MarkerFileError(errno: code)) }
        return nil
    }

    private func trusted(
        _ file: String, _ marker: Identifier, _ volume: Identifier, _ size: UInt64
    ) -> MarkerBitmap? {
        guard let (fd, header) = MarkerFile.open(file) else { return nil }
        var inUse = header
        inUse.isClosed = false
        inUse.boot = boot
        guard let bitmap = MarkerBitmap(fd: fd, header: inUse) else { return nil }
        guard header.volume == volume, header.marker == marker, header.size <= size,
            // A process that was killed leaves what it set to the kernel, a machine that died does not.
            header.isClosed ? bitmap.isAsSealed(header) : header.boot == boot,
            MarkerFile.write(inUse, to: fd) == 0
        else { return nil }
        return bitmap
    }

    /// Removes a marker's file.
    func remove(_ marker: Identifier, of volume: Identifier) throws(StatusError) {
        let code = MarkerFile.remove(file(volume, marker))
        guard code == 0 else { throw failure("removed", MarkerFileError(errno: code)) }
    }

    /// Removes the files of markers that nobody knows: the server ended while one was made or removed.
    func sweep(keeping known: [Identifier: [Identifier]]) {
        let names = Set(known.flatMap { volume, markers in markers.map { name(volume, $0) } })
        for name in MarkerFile.names(in: path)
        where name.hasSuffix(MarkerFolder.suffix) && !names.contains(name) {
            let code = MarkerFile.remove("\(path)/\(name)")
            logger.notice(
                code == 0 ? "a marker's file that nobody knows was removed" : "a marker's file stays",
                metadata: ["file": "\(name)"])
        }
    }

    /// Makes a marker's bits last, when nobody sets any more.
    func seal(_ bitmap: MarkerBitmap, marker: Identifier) {
        let code = bitmap.seal()
        if code != 0 {
            logger.error(
                "a marker was not sealed",
                metadata: ["marker": "\(marker)", "reason": "\(MarkerFileError.text(code))"])
        }
    }

    private func failure(_ verb: String, _ error: MarkerFileError) -> StatusError {
        StatusError(
            error.isFull ? .noSpace : .internalError,
            "the marker's file cannot be \(verb) in \(path): \(MarkerFileError.text(error.errno))")
    }
}
