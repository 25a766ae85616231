/*
 * Resume and fence of one channel: the model of API/data-channel.md, section 4 "Resume".
 *
 * One client whose channel has two slots, a network that cuts connections, a server that fences, resumes, dies and is
 * started again, a driver that does what it was given when it likes, and an administrator who fences the volume for
 * another writer. Slot 0 carries WRITEs, slot 1 COMPARE_AND_WRITEs: neither is idempotent, and the second must not be
 * repeated after a restart of the server.
 *
 * Each assertion stands for a sentence of the text:
 *
 *   ONCE      "was executed, and is not idempotent: answered as it was, not executed again"
 *   FENCED    "every request of it has been completed, or is dropped for good, before HELLO is answered"
 *   LATE      what was answered, or reported as OUTCOME_UNKNOWN, is never executed any more, so that an old write cannot
 *             land on a newer one
 *   TAKEN     section 9: "When the administrator is answered, no request of the old holders runs any more or will run"
 *   TRUE      a request that was answered was executed
 *   NEXT      a client that follows the text never hears BAD_SEQUENCE
 *   ENDED     NOT_FOUND is heard only of a session that was ended
 *
 * and the absence of invalid end states says that nobody waits for ever: every request is answered, every fence ends.
 *
 * What is not in it: several channels (each is fenced and resumed by itself), reads (executed again, with whatever is
 * there then), OPEN (it follows HELLO and is refused where HELLO could have been), sequences that wrap.
 *
 * Tests/system/test_model.py runs it, also with each of the faults below, which it must find.
 *
 *   FAULT_RESUME_DOES_NOT_WAIT   HELLO is answered while the driver still has requests of the lost connection
 *   FAULT_OLD_IS_READ            the old connection is read on after the channel was resumed on another
 *   FAULT_NO_REPLY_CACHE         what was executed, and not answered before the loss, counts as dropped
 *   FAULT_DROPPED_IS_ANSWERED    what was dropped counts as executed
 *   FAULT_FENCE_DOES_NOT_WAIT    the administrator is answered while the driver still has requests
 *   FAULT_FENCE_NOT_DURABLE      a fence ends the session in memory only, and a restart brings it back
 *   FAULT_RESTART_DOES_NOT_WAIT  a new server begins while the dead one's I/O is still under way
 *   FAULT_RESTART_TOLD_ONCE      resumption 2 is said once, and may be lost with its connection
 *   FAULT_REPEATS_ALL            the client repeats COMPARE_AND_WRITE after a restart
 *   FAULT_SESSION_FORGOTTEN      the session is not in the catalog when the server starts again
 *
 * With DEAF the client takes no notice of BAD_SEQUENCE, and with BLIND FENCED is not looked at, so that what comes of a
 * fault after that is seen as well.
 */

#ifndef CUTS
#define CUTS 1          /* how often the network cuts a connection */
#endif
#ifndef CRASHES
#define CRASHES 1       /* how often the server dies */
#endif
#ifndef REQUESTS
#define REQUESTS 2      /* requests on each slot, one after the other */
#endif
#ifndef FENCES
#define FENCES 1        /* whether an administrator takes the volume away at some time */
#endif

#define SLOTS 2
/* The first connection, one for each thing that may end one, and as many again for late HELLOs that displace another. */
#ifdef FAULT_FENCE_NOT_DURABLE
#define CONNECTIONS (3 + 2 * CUTS + CRASHES)
#else
#define CONNECTIONS (2 + 2 * CUTS + CRASHES)
#endif
#define NONE 255

#define COMPARES(slot) ((slot) == 1)
#define FLIGHT(connection, slot) ((connection) * SLOTS + (slot))

mtype = { HELLO, REQUEST, RESUMED, RESTARTED, NOT_FOUND, BUSY, REPLY, BAD_SEQUENCE };
/* What the server knows of a slot. ANSWERED: the last request was executed and its reply is kept. DROPPED: the last one
   was taken up and not executed. UNKNOWN: the server was restarted. */
mtype = { ANSWERED, RUNNING, DROPPED, UNKNOWN };
/* What a driver has: nothing, a request, a request that is done. */
mtype = { GIVEN, DONE };

chan up[CONNECTIONS] = [SLOTS] of { mtype, byte, byte };
chan down[CONNECTIONS] = [SLOTS] of { mtype, byte, byte };
bool cut[CONNECTIONS];      /* by the network: each end finds out when it likes, or never before it is closed */
bool closed[CONNECTIONS];   /* by the server */
byte current = 0;           /* the connection that the client uses */

/* The server: gone with its process, except for what stands in the catalog. */
bool isUp = true;
byte owner = 0;             /* the connection that has the channel */
byte waiting = NONE;        /* the one whose HELLO waits for the fence */
byte last[SLOTS];
mtype known[SLOTS] = ANSWERED;
bool isFirst[SLOTS];        /* no request came on the slot since the channel was resumed: the last may be repeated */
bool isRestarted = false;   /* the client has not shown yet that it knows */
bool isFencing = false;
bool sessionIsOpen = true;  /* in the catalog as well */

/* The driver, and the device behind it. */
mtype flight[CONNECTIONS * SLOTS];
byte flightSequence[CONNECTIONS * SLOTS];
byte flights = 0;           /* that the server knows of, or its machine's kernel after it has died */

/* What has happened, for the assertions. */
byte fencedBelow = 0;       /* connections below this one are fenced */
bool isEnded = false;       /* the session, by an administrator */
bool isTaken = false;       /* the administrator has been answered */
byte told[SLOTS];           /* the last sequence whose outcome the client knows, or has reported as unknown */
byte executions[SLOTS];     /* of the request that the client waits for */
bool diedMeanwhile[SLOTS];  /* the server, since the client sent it first */

inline execute(connection, slot) {
    assert(flightSequence[FLIGHT(connection, slot)] == told[slot] + 1);             /* LATE */
#ifndef BLIND
    assert(connection >= fencedBelow);                                              /* FENCED */
#endif
    assert(!isTaken);                                                               /* TAKEN */
    executions[slot]++;
    assert(executions[slot] == 1 || (diedMeanwhile[slot] && !COMPARES(slot)));      /* ONCE */
    flight[FLIGHT(connection, slot)] = DONE
}

inline learn(slot) {
    told[slot]++;
    executions[slot] = 0;
    diedMeanwhile[slot] = false
}

/* Where the client listens no longer, what is sent is lost. */
inline send(connection, what, slot, sequence) {
    if
    :: connection == current -> down[connection]!what, slot, sequence
    :: else
    fi
}

inline shut(connection) {
    closed[connection] = true;
#ifndef FAULT_OLD_IS_READ
    do
    :: nempty(up[connection]) -> up[connection]?_, _, _
    :: empty(up[connection]) -> break
    od
#endif
}

/* A request of the connection that has the channel. */
inline take(connection, slot, sequence) {
    isRestarted = false;
    if
    :: (known[slot] == UNKNOWN && isFirst[slot]) ||
       (known[slot] == ANSWERED && sequence == last[slot] + 1) ||
       (known[slot] == DROPPED && isFirst[slot] && sequence == last[slot]) ->
        last[slot] = sequence;
        known[slot] = RUNNING;
        flight[FLIGHT(connection, slot)] = GIVEN;
        flightSequence[FLIGHT(connection, slot)] = sequence;
        flights++
    :: known[slot] == ANSWERED && isFirst[slot] && sequence == last[slot] ->
        send(connection, REPLY, slot, sequence)
    :: else ->
        send(connection, BAD_SEQUENCE, slot, sequence)
    fi;
    isFirst[slot] = false
}

inline forget(number) {
    flight[number] = 0;
    flightSequence[number] = 0;
    flights = (flights == 0 -> 0 : flights - 1)
}

/* What the driver has done: an answer where somebody listens, and in any case a reply that is kept. */
inline complete(connection, slot) {
    if
    :: connection == owner -> send(connection, REPLY, slot, flightSequence[FLIGHT(connection, slot)])
    :: else
    fi;
    if
    :: known[slot] == RUNNING && last[slot] == flightSequence[FLIGHT(connection, slot)] ->
#ifdef FAULT_NO_REPLY_CACHE
        known[slot] = (connection == owner -> ANSWERED : DROPPED)
#else
        known[slot] = ANSWERED
#endif
    :: else
    fi;
    forget(FLIGHT(connection, slot))
}

/* What was taken up and is not done is never done. */
inline drop(connection, slot) {
#ifdef FAULT_DROPPED_IS_ANSWERED
    known[slot] = ANSWERED;
#else
    known[slot] = DROPPED;
#endif
    forget(FLIGHT(connection, slot))
}

/* A HELLO that resumes: the connection that had the channel is heard no longer, the one that waited is told so. */
inline greet(connection) {
    if
    :: !sessionIsOpen ->
        send(connection, NOT_FOUND, 0, 0)
    :: else ->
        if
        :: waiting != NONE -> send(waiting, BUSY, 0, 0); shut(waiting)
        :: else
        fi;
        waiting = connection;
        if
        :: owner != NONE -> shut(owner); owner = NONE
        :: else
        fi
    fi
}

inline resume() {
    owner = waiting;
    waiting = NONE;
    fencedBelow = owner;
    isFirst[0] = true;
    isFirst[1] = true;
    if
    :: isRestarted ->
        send(owner, RESTARTED, 0, 0)
#ifdef FAULT_RESTART_TOLD_ONCE
        ; isRestarted = false
#endif
    :: else ->
        send(owner, RESUMED, 0, 0)
    fi
}

inline die() {
    isUp = false;
    owner = NONE;
    waiting = NONE;
    isFencing = false;
    last[0] = 0; last[1] = 0;
    known[0] = UNKNOWN; known[1] = UNKNOWN;
    isFirst[0] = false; isFirst[1] = false;
    diedMeanwhile[0] = true; diedMeanwhile[1] = true;
#ifdef FAULT_RESTART_DOES_NOT_WAIT
    flights = 0;    /* the next server knows of none */
#endif
    do
    :: c <= current -> shut(c); c++
    :: else -> c = 0; break
    od
}

inline start() {
    isUp = true;
    isRestarted = true;
#ifdef FAULT_FENCE_NOT_DURABLE
    sessionIsOpen = true;
#endif
#ifdef FAULT_SESSION_FORGOTTEN
    sessionIsOpen = false;
#endif
    skip
}

#ifdef FAULT_RESUME_DOES_NOT_WAIT
#define channelHasEnded true
#else
#define channelHasEnded (flights == 0)
#endif

#ifdef FAULT_OLD_IS_READ
#define isHeard(connection) (owner != NONE && connection <= owner)
#else
#define isHeard(connection) (connection == owner)
#endif

#ifdef FAULT_RESTART_DOES_NOT_WAIT
#define oldServerIsGone true
#else
#define oldServerIsGone (flights == 0)
#endif

#ifdef FAULT_FENCE_DOES_NOT_WAIT
#define holdersHaveEnded true
#else
#define holdersHaveEnded (flights == 0)
#endif

/* The server as a process, and what it does once a fence has ended. */
active proctype Server() {
    byte crashes = CRASHES, c = 0;
end:
    do
    :: atomic { isUp && waiting != NONE && owner == NONE && channelHasEnded -> resume() }
    :: atomic { isUp && crashes > 0 -> crashes--; die() }
    :: atomic { !isUp && oldServerIsGone -> start() }
    od
}

/* What happens to a request that a driver has: it is done, it is answered; once its connection has lost the channel,
   or its server has died, it may also never be done. */
#define DRIVES(slot) \
    :: atomic { flight[FLIGHT(c, slot)] == GIVEN -> execute(c, slot) } \
    :: atomic { isUp && flight[FLIGHT(c, slot)] == DONE -> complete(c, slot) } \
    :: atomic { isUp && owner != c && flight[FLIGHT(c, slot)] == GIVEN -> drop(c, slot) } \
    :: atomic { !isUp && flight[FLIGHT(c, slot)] != 0 -> forget(FLIGHT(c, slot)) }

/* One connection as the server sees it. What has arrived is read even if the client is gone. */
proctype Connection(byte c) {
    byte slot, sequence;
end:
    do
    :: atomic { isUp && !closed[c] && up[c]?[HELLO, _, _] -> up[c]?HELLO, _, _; greet(c) }
    :: atomic { isUp && isHeard(c) && up[c]?[REQUEST, _, _] ->
        up[c]?REQUEST, slot, sequence;
        take(c, slot, sequence);
        slot = 0; sequence = 0 }
    :: atomic { isUp && cut[c] && !closed[c] && (c == owner || c == waiting) ->
        shut(c);
        owner = (c == owner -> NONE : owner);
        waiting = (c == waiting -> NONE : waiting) }
    DRIVES(0)
    DRIVES(1)
    od
}

/* Cuts whatever connection is in use. Each end finds out at a time of its own. */
active proctype Network() {
    byte cuts = CUTS;
end:
    do
    :: atomic { cuts > 0 && !cut[current] && !closed[current] -> cut[current] = true; cuts-- }
    od
}

/* Takes the volume away, and asks again if the server dies before it answers. */
active proctype Administrator() {
#if FENCES
again:
    atomic { isUp ->
        isEnded = true;
        sessionIsOpen = false;
        isFencing = true;
        if
        :: owner != NONE -> shut(owner); owner = NONE
        :: else
        fi;
        if
        :: waiting != NONE -> send(waiting, NOT_FOUND, 0, 0); waiting = NONE
        :: else
        fi }
    if
    :: atomic { isFencing && holdersHaveEnded -> isTaken = true }
    :: !isFencing -> goto again
    fi
#else
    skip
#endif
}

#define waitsFor(slot) (sent[slot] > told[slot])

/* Sends on what the client has no answer to. After a restart nobody knows what became of a COMPARE_AND_WRITE. */
inline repeat(afterRestart) {
#ifndef FAULT_REPEATS_ALL
    if
    :: afterRestart && waitsFor(1) -> learn(1)
    :: else
    fi;
#endif
    if
    :: waitsFor(0) -> up[current]!REQUEST, 0, sent[0]
    :: else
    fi;
    if
    :: waitsFor(1) -> up[current]!REQUEST, 1, sent[1]
    :: else
    fi
}

#define SENDS(slot) \
    :: atomic { !waitsFor(slot) && sent[slot] < REQUESTS -> \
        sent[slot]++; \
        executions[slot] = 0; \
        diedMeanwhile[slot] = false; \
        up[current]!REQUEST, slot, sent[slot] }

active proctype Client() {
    byte sent[SLOTS];
    byte slot, sequence;
work:
    do
    SENDS(0)
    SENDS(1)
    :: atomic { down[current]?REPLY, slot, sequence ->
        assert(waitsFor(slot) && sequence == sent[slot]);
        assert(executions[slot] > 0);                                               /* TRUE */
        learn(slot);
        slot = 0; sequence = 0 }
#ifdef DEAF
    :: down[current]?BAD_SEQUENCE, _, _
#else
    :: down[current]?BAD_SEQUENCE, _, _ -> assert(false)                            /* NEXT */
#endif
    :: told[0] == REQUESTS && told[1] == REQUESTS -> goto done
    :: cut[current] || closed[current] -> break
    od;
again:
    atomic { isUp ->
        do
        :: nempty(down[current]) -> down[current]?_, _, _
        :: empty(down[current]) -> break
        od;
        assert(current + 1 < CONNECTIONS);
        current++;
        up[current]!HELLO, 0, 0 }
    do
    :: atomic { down[current]?RESUMED, _, _ -> repeat(false); goto work }
    :: atomic { down[current]?RESTARTED, _, _ -> repeat(true); goto work }
    :: down[current]?BUSY, _, _ -> goto again
    :: down[current]?NOT_FOUND, _, _ -> assert(isEnded); break                      /* ENDED */
    :: cut[current] || closed[current] -> goto again
    od;
done:
    skip
}

init {
    byte c = 0;
    atomic {
        do
        :: c < CONNECTIONS -> run Connection(c); c++
        :: else -> c = 0; break
        od
    }
}
