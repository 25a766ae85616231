import Catalog
import Core
import Services

extension Problem {
    /// What `body` throws, as a problem.
    static func translating<Value>(_ body: () throws(CatalogError) -> Value) throws(Problem) -> Value {
        do throws(CatalogError) { return try body() } catch { throw Problem(error) }
    }
}

extension ControlPlane {
    /// Makes changes durable and visible.
    func commit(_ changes: RecordChanges) async throws(Problem) {
        do throws(CatalogError) {
            try await store.commit(changes)
        } catch {
            counters.countCommit(succeeded: false)
            throw Problem(error)
        }
        counters.countCommit(succeeded: true)
    }

    /// Refuses what would take room while the catalog has nothing left but its reserve, which is for what makes room.
    func requireRoom() async throws(Problem) {
        guard await store.isShortOfSpace() else { return }
        throw Problem(
            .noSpace,
            "the file system of the server's data folder is full: until there is room, nothing new is made",
            expected: "delete or discard what is not needed, or make the file system larger")
    }

    /// Asks the services.
    @discardableResult
    func perform<Answer: Sendable>(_ action: ServiceAction<Answer>) async throws(Problem) -> Answer {
        do throws(StatusError) { return try await services.perform(action) } catch { throw Problem(error) }
    }

    /// Asks the services for what a pool's driver has to do. Where the pool waits for an administrator, the problem
    /// says why and what ends that: asking again later would not help.
    @discardableResult
    func perform<Answer: Sendable>(
        _ action: ServiceAction<Answer>, inPool pool: String
    ) async throws(Problem) -> Answer {
        do throws(StatusError) { return try await services.perform(action) } catch {
            let problem = Problem(error)
            guard problem.code == .deviceFailed || problem.code == .notFound,
                let obstacle = try? await obstacle(inPool: pool)
            else { throw problem }
            throw Problem(
                .conflict, "\(obstacle). Nothing was done", expected: "'sluice pool restart \(pool)'")
        }
    }
}
