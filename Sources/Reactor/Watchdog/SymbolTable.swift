import CURing
import Core
import Glibc

/// The names of this program's functions, from its own file; for messages about where a thread is.
///
/// Reading takes a while and allocates: never on a thread that others wait for.
@safe
public struct SymbolTable {
    // SAFETY: every offset into the file is checked against its length before it is read.
    private let bytes: UnsafeRawBufferPointer
    private var symbols: Range<Int> = 0..<0
    private var names: Range<Int> = 0..<0
    /// Where the program begins in memory; addresses in the file count from there.
    private let start: UInt

    private static let symbolBytes = 24
    /// Longer names are cut.
    private static let nameBytesMax = 160

    /// Calls the body with the names of the running program; without them where its file cannot be read.
    public static func withOwn<Result>(_ body: (borrowing SymbolTable) -> Result) -> Result {
        let fd = unsafe open("/proc/self/exe", O_RDONLY | O_CLOEXEC)
        defer { if fd >= 0 { close(fd) } }
        var status = stat()
        guard fd >= 0, unsafe fstat(fd, &status) == 0, status.st_size > 0,
            let memory = unsafe mmap(nil, Int(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0),
            unsafe memory != MAP_FAILED
        else { return body(unsafe SymbolTable(UnsafeRawBufferPointer(start: nil, count: 0), start: 0)) }
        let bytes = unsafe UnsafeRawBufferPointer(start: memory, count: Int(status.st_size))
        defer { unsafe munmap(memory, bytes.count) }
        return body(unsafe SymbolTable(bytes, start: UInt(sluice_program_start())))
    }

    /// A table from the bytes of a 64-bit little-endian ELF file; empty for any others.
    init(_ bytes: UnsafeRawBufferPointer, start: UInt) {
        unsafe self.bytes = unsafe bytes
        self.start = start
        guard word(0, UInt32.self) == 0x464C_457F, word(4, UInt16.self) == 0x0102 else { return }
        guard let table = word(0x28, UInt64.self), let size = word(0x3A, UInt16.self),
            let count = word(0x3C, UInt16.self), size >= 64
        else { return }
        for index in 0..<Int(count) {
            guard let header = Int(exactly: table)?.addingReportingOverflow(index * Int(size)),
                !header.overflow
            else { return }
            let at = header.partialValue
            // SHT_SYMTAB
            guard word(at + 4, UInt32.self) == 2, let link = word(at + 40, UInt32.self) else { continue }
            let strings = Int(clamping: table) &+ Int(link) &* Int(size)
            symbols = range(of: at) ?? 0..<0
            names = range(of: strings) ?? 0..<0
            return
        }
    }

    /// The words for some addresses, in their order: function, library or program, and how far behind its beginning.
    public func describe(_ addresses: [UInt]) -> [String] {
        var found: [(name: Int, start: UInt)?] = addresses.map { _ in nil }
        let places = addresses.map { $0 &- start }
        for at in stride(
            from: symbols.lowerBound, to: symbols.upperBound - Self.symbolBytes + 1, by: Self.symbolBytes)
        {
            // STT_FUNC
            guard let info = word(at + 4, UInt8.self), info & 0xF == 2, let value = word(at + 8, UInt64.self),
                let size = word(at + 16, UInt64.self), let name = word(at, UInt32.self)
            else { continue }
            for (index, place) in places.enumerated()
            where found[index] == nil && UInt64(place) >= value && UInt64(place) - value < max(size, 1) {
                found[index] = (Int(name), UInt(value))
            }
        }
        return addresses.indices.map { index in
            if let symbol = found[index] {
                return "\(Self.demangled(text(symbol.name))) + \(places[index] - symbol.start)"
            }
            return Self.library(addresses[index])
        }
    }

    private static func library(_ address: UInt) -> String {
        var (file, name): (UnsafePointer<CChar>?, UnsafePointer<CChar>?) = (nil, nil)
        var (base, start): (UInt, UInt) = (0, 0)
        guard unsafe sluice_library_symbol(address, &file, &base, &name, &start) != 0, let file = unsafe file
        else { return "0x\(String(address, radix: 16))" }
        let place = unsafe String(cString: file).split(separator: "/").last.map(String.init) ?? ""
        guard let name = unsafe name else { return "\(place) + 0x\(String(address - base, radix: 16))" }
        return unsafe "\(demangled(String(cString: name))) + \(address - start) in \(place)"
    }

    private static func demangled(_ name: String) -> String {
        var text = name
        if let words = unsafe swift_demangle(name, name.utf8.count, nil, nil, 0) {
            text = unsafe String(cString: words)
            unsafe free(words)
        }
        guard text.utf8.count > nameBytesMax else { return text }
        return String(text.unicodeScalars.prefix(nameBytesMax).map(Character.init)) + "…"
    }

    /// The bytes that a section's header names.
    private func range(of header: Int) -> Range<Int>? {
        guard let offset = word(header + 24, UInt64.self).flatMap({ Int(exactly: $0) }),
            let size = word(header + 32, UInt64.self).flatMap({ Int(exactly: $0) }),
            unsafe offset <= bytes.count, unsafe size <= bytes.count - offset
        else { return nil }
        return offset..<offset + size
    }

    private func text(_ offset: Int) -> String {
        let start = names.lowerBound + offset
        guard names.contains(start) else { return "?" }
        let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<names.upperBound])
        return unsafe String(decoding: rest.prefix(4096).prefix { $0 != 0 }, as: UTF8.self)
    }

    private func word<Value: FixedWidthInteger & BitwiseCopyable>(_ offset: Int, _ type: Value.Type) -> Value?
    {
        guard offset >= 0, unsafe offset <= bytes.count - MemoryLayout<Value>.size else { return nil }
        return unsafe Value(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
    }
}
