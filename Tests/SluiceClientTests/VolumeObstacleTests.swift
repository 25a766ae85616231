import Core
import Testing
import Wire

@testable import SluiceClient

/// What is said to whoever waits for a volume.
@Suite struct VolumeObstacleTests {
    @Test func theConnectionGoesBeforeTheDriver() {
        let obstacle = VolumeObstacle()
        #expect(obstacle.words == nil)
        obstacle.heard(.driverQuarantined(handle: 1, reason: "8 were lost"))
        #expect(obstacle.words?.contains("quarantined (8 were lost)") == true)
        #expect(obstacle.words?.contains("sluice pool restart") == true)
        obstacle.connectionIs(away: "it is lost")
        obstacle.heard(.resized(handle: 1, size: 1))
        #expect(obstacle.words == "it is lost")
        obstacle.connectionIs(away: nil)
        obstacle.heard(.driverRecovering(handle: 1, isRecovering: true))
        #expect(obstacle.words == "the volume's driver is being restarted")
        obstacle.heard(.driverRecovering(handle: 1, isRecovering: false))
        #expect(obstacle.words == nil)
    }

    @Test func oneWorkerOfABenchmarkIsInNobodysPlace() throws {
        let board = try BenchBoard()
        let (first, second) = (board.makeObstacle(), board.makeObstacle())
        #expect(board.obstacle == nil)
        first.connectionIs(away: "it is lost")
        second.connectionIs(away: "another is lost")
        second.resumed()
        #expect(board.obstacle == "it is lost")
        first.resumed()
        #expect(board.obstacle == nil)
    }

    @Test func aReasonIsSaidOnceAfterTwoSecondsOfSilence() {
        let second: UInt64 = 1_000_000_000
        var voice = WaitingVoice(now: second)
        #expect(voice.look(progress: 0, "a", now: 2 * second) == nil)
        #expect(voice.look(progress: 0, "a", now: 3 * second) == "a")
        #expect(voice.look(progress: 0, "a", now: 9 * second) == nil)
        #expect(voice.look(progress: 0, "b", now: 9 * second) == "b")
        #expect(voice.look(progress: 1, "b", now: 10 * second) == nil, "something came")
        #expect(voice.look(progress: 1, "b", now: 12 * second) == "b")
    }
}
