import Core

extension IOServices {
    /// Has the other connections of a key looked at: they are in the way of one that comes from the same node, whose
    /// machine may have been reset without a word. A client that is there does not notice.
    func doubt(thumbprint: Digest32, except session: Identifier) {
        for link in state.withLock({ $0.shards }) {
            link.remote.post {
                let shard = link.shard.value
                for case let channel? in shard.channels.all
                where channel.thumbprint == thumbprint && channel.session != session && !channel.isDetached {
                    channel.owner?.channelIsDoubted()
                }
            }
        }
    }
}
