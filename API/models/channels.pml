/*
 * Several channels of one session: the model of two rules of API/data-channel.md, section 4 "Resume".
 *
 * An application writes one block again and again, each time when it has heard of the time before: an answer, or that
 * the client has given up. The client has two channels with a slot each and sends on whichever it likes. Slots and
 * sequences are as resume.pml has proved them: what is repeated is executed if it was not, and answered.
 *
 *   ORDER     a write never lands after a younger one: "A request sticks to its channel until the channel is resumed: on
 *             another it could be overtaken by its own older copy, which is still under way. For the same reason a client
 *             that has given up a request which changes something, and told its user so, MUST NOT send further changes
 *             on any channel of the session before the channel of that request is resumed."
 *   TRUE      what was answered was executed
 *
 * Tests/system/test_model.py runs it, also with these faults, which it must find:
 *
 *   FAULT_MOVES       an unanswered request of a lost channel is sent on the other one
 *   FAULT_FORGETS     after a request was given up the next one is sent at once
 */

#ifndef CUTS
#define CUTS 2
#endif
#ifndef WRITES
#define WRITES 3
#endif

#define CHANNELS 2
/* Each cut may end one connection of a channel, and a HELLO that comes late displaces another. */
#define TIMES (1 + 2 * CUTS)
#define NONE 255
#define LINK(channel, time) ((channel) * TIMES + (time))

mtype = { HELLO, WRITE, PING, RESUMED, DONE };

chan up[CHANNELS * TIMES] = [2] of { mtype, byte };
chan down[CHANNELS * TIMES] = [2] of { mtype, byte };
bool cut[CHANNELS * TIMES];
bool closed[CHANNELS * TIMES];

/* The client. */
byte time[CHANNELS];            /* which of a channel's connections it uses */
bool isOpen[CHANNELS] = true;   /* not between a loss and the answer to HELLO */
byte unanswered[CHANNELS];      /* the write in the channel's slot */
bool isGivenUp[CHANNELS];

/* The server. */
byte owner[CHANNELS];
byte waiting[CHANNELS] = NONE;
byte flight[CHANNELS * TIMES];  /* the write that the driver has */
byte flights[CHANNELS];

byte newest = 0;                /* on the device */
bool wasExecuted[WRITES + 1];

inline shut(link) {
    closed[link] = true;
    do
    :: nempty(up[link]) -> up[link]?_, _
    :: empty(up[link]) -> break
    od
}

inline answer(link, what, value) {
    if
    :: nfull(down[link]) -> down[link]!what, value
    :: full(down[link])     /* nobody reads it any more */
    fi
}

/* One connection as the server sees it, and the driver under it. */
proctype Connection(byte c; byte t) {
    byte value;
end:
    do
    :: atomic { !closed[LINK(c, t)] && up[LINK(c, t)]?[HELLO, _] ->
        up[LINK(c, t)]?HELLO, _;
        if
        :: waiting[c] != NONE -> shut(LINK(c, waiting[c]))
        :: else
        fi;
        if
        :: owner[c] != NONE -> shut(LINK(c, owner[c])); owner[c] = NONE
        :: else
        fi;
        waiting[c] = t }
    :: atomic { owner[c] == t && up[LINK(c, t)]?[WRITE, _] ->
        up[LINK(c, t)]?WRITE, value;
        if
        :: wasExecuted[value] && t > 0 -> answer(LINK(c, t), DONE, value)
        :: else -> flight[LINK(c, t)] = value; flights[c]++
        fi;
        value = 0 }
    :: atomic { owner[c] == t && up[LINK(c, t)]?[PING, _] ->
        up[LINK(c, t)]?PING, value;
        answer(LINK(c, t), DONE, value);
        value = 0 }
    :: atomic { flight[LINK(c, t)] != 0 ->
        assert(flight[LINK(c, t)] > newest);                                        /* ORDER */
        newest = flight[LINK(c, t)];
        wasExecuted[newest] = true;
        if
        :: owner[c] == t -> answer(LINK(c, t), DONE, newest)
        :: else
        fi;
        flight[LINK(c, t)] = 0; flights[c]-- }
    :: atomic { flight[LINK(c, t)] != 0 && owner[c] != t -> flight[LINK(c, t)] = 0; flights[c]-- }
    :: atomic { cut[LINK(c, t)] && !closed[LINK(c, t)] && (owner[c] == t || waiting[c] == t) ->
        shut(LINK(c, t));
        owner[c] = (owner[c] == t -> NONE : owner[c]);
        waiting[c] = (waiting[c] == t -> NONE : waiting[c]) }
    od
}

/* Answers a HELLO when the channel's old connection has nothing left. */
proctype Fence(byte c) {
end:
    do
    :: atomic { waiting[c] != NONE && owner[c] == NONE && flights[c] == 0 ->
        owner[c] = waiting[c];
        waiting[c] = NONE;
        answer(LINK(c, owner[c]), RESUMED, 0) }
    od
}

active proctype Network() {
    byte cuts = CUTS;
end:
    do
    :: atomic { cuts > 0 && !cut[LINK(0, time[0])] && !closed[LINK(0, time[0])] ->
        cut[LINK(0, time[0])] = true; cuts-- }
    :: atomic { cuts > 0 && !cut[LINK(1, time[1])] && !closed[LINK(1, time[1])] ->
        cut[LINK(1, time[1])] = true; cuts-- }
    od
}

#define isLost(c) (cut[LINK(c, time[c])] || closed[LINK(c, time[c])])

#ifdef FAULT_FORGETS
#define maySend true
#else
#define maySend (!isGivenUp[0] && !isGivenUp[1])
#endif

#define SERVES(c) \
    :: atomic { isOpen[c] && unanswered[c] == 0 && value == asked && asked < WRITES && maySend -> \
        asked++; \
        unanswered[c] = asked; \
        up[LINK(c, time[c])]!WRITE, asked } \
    :: atomic { down[LINK(c, time[c])]?[DONE, _] -> \
        down[LINK(c, time[c])]?DONE, said; \
        assert(said == unanswered[c]); \
        assert(isGivenUp[c] || wasExecuted[said]);                                  /* TRUE */ \
        value = (isGivenUp[c] -> value : said); \
        isGivenUp[c] = false; \
        unanswered[c] = 0; \
        said = 0 } \
    :: atomic { unanswered[c] != 0 && !isGivenUp[c] -> isGivenUp[c] = true; value = unanswered[c] } \
    :: atomic { isLost(c) -> \
        do \
        :: nempty(down[LINK(c, time[c])]) -> down[LINK(c, time[c])]?_, _ \
        :: empty(down[LINK(c, time[c])]) -> break \
        od; \
        assert(time[c] + 1 < TIMES); \
        time[c]++; \
        isOpen[c] = false; \
        up[LINK(c, time[c])]!HELLO, 0 } \
    :: atomic { down[LINK(c, time[c])]?[RESUMED, _] -> \
        down[LINK(c, time[c])]?RESUMED, _; \
        isOpen[c] = true; \
        if \
        :: unanswered[c] == 0 \
        :: unanswered[c] != 0 && !isGivenUp[c] -> up[LINK(c, time[c])]!WRITE, unanswered[c] \
        :: unanswered[c] != 0 && isGivenUp[c] -> up[LINK(c, time[c])]!PING, unanswered[c] \
        fi }

/* `asked` is the application's youngest write, `value` the youngest that it has heard of. */
active proctype Client() {
    byte asked = 0, value = 0, said = 0;
    do
    SERVES(0)
    SERVES(1)
#ifdef FAULT_MOVES
    :: atomic { unanswered[0] != 0 && !isOpen[0] && isOpen[1] && unanswered[1] == 0 ->
        unanswered[1] = unanswered[0]; unanswered[0] = 0;
        up[LINK(1, time[1])]!WRITE, unanswered[1] }
#endif
    :: atomic { value == WRITES && unanswered[0] == 0 && unanswered[1] == 0 -> break }
    od
}

init {
    byte t = 0;
    atomic {
        do
        :: t < TIMES -> run Connection(0, t); run Connection(1, t); t++
        :: else -> break
        od;
        run Fence(0);
        run Fence(1);
        t = 0
    }
}
