import Foundation
import Glibc
import Reactor

/// A program that a test runs; it is killed when the test lets go of it.
///
/// Not Foundation's `Process`: that one reads past the end of its buffer when it looks for open descriptors, and ends
/// the test process where there are many (swift-corelibs-foundation, `Process.run`).
public final class Command {
    /// What the program reads.
    public let input: FileHandle
    /// What the program writes, errors too.
    public let output: FileHandle
    private let process: ChildProcess

    /// Starts a program that is found by PATH, in a folder.
    public init(_ arguments: [String], folder: String = "/") throws {
        let (ours, childs) = try Sockets.pair()
        let (ourInput, childsInput) = try Sockets.pair()
        defer {
            close(childs)
            close(childsInput)
        }
        input = FileHandle(fileDescriptor: ourInput, closeOnDealloc: true)
        output = FileHandle(fileDescriptor: ours, closeOnDealloc: true)
        process = try ChildProcess(
            executable: "/usr/bin/env", arguments: ["-C", folder] + arguments,
            environment: ProcessInfo.processInfo.environment.map { "\($0)=\($1)" },
            descriptors: [(childsInput, 0), (childs, 1), (childs, 2)])
    }

    /// Sends a signal; nothing happens when the program has ended.
    public func signal(_ number: Int32) { process.signal(number) }

    /// Waits for the end; the status, or 128 and the signal's number.
    @discardableResult
    public func wait() -> Int32 {
        switch process.wait() {
        case .exited(let status): status
        case .signalled(let signal): 128 + signal
        }
    }
}
