/// A bug that the simulator must find.
enum PlantedBug: String, CaseIterable, Sendable {
    /// Whoever takes authority away is answered at once.
    case fenceDoesNotWait
    /// A reactor does not hear of it.
    case fenceMissesReactor
}
