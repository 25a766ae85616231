import Core

/// A thread that asks the control API for capabilities, so that nothing else waits for it.
final class CapabilityRenewer: Sendable {
    private let requests = Mailbox<Bool>()
    private let thread: BackgroundThread

    /// Answers go to `inbox`.
    init(access: VolumeAccess, rights: Rights, inbox: Mailbox<AttachNotice>) {
        let requests = requests
        thread = BackgroundThread {
            var access = access
            while requests.take() {
                do throws(AttachError) {
                    inbox.post(.issued(.success(try access.issue(rights: rights))))
                } catch {
                    inbox.post(.issued(.failure(error)))
                }
            }
        }
    }

    /// Asks for another capability; `issued` follows.
    func request() { requests.post(true) }

    /// Ends the thread after the request that it may be at.
    func stop() { requests.post(false) }
}
