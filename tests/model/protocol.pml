/*
 * protocol.pml - the protocol as it is built, for spin: Redis with its scripts, a fail-over that loses the newest
 * writes while the old master goes on answering, the words of the control page with every process of the host that
 * stores them, the outbox, tickets, guards, strong writes; and readers that judge in the order of core/servable.c.
 *
 * A step of a process here is a step there: what one script does, or one atomic store, or one load.  Two reporters run
 * on a page at once, and neither asks who has the seat: a holder that was stopped and goes on is such a one.
 *
 * Time is not counted, it is ordered.  `now` ticks when Redis confirms something; a proof carries the tick at which its
 * question was sent; and waiting out the bound declares dead every proof that was asked before.  A change that was
 * confirmed before a proof's question may have been confirmed longer than the bound before the answer, since
 * everything between is arbitrary: so P1 is "no change of the page's epoch that voids the answer was confirmed before
 * the proof's question was sent", without any number for the bound.
 *
 * Values are the versions of a database row: 0, 1, 2.  A change that commits version w voids all below.
 *
 *   asserted: p1_bound, p3_own and p4_strong of each answer; p2_filled and p5_kept when all has come to rest
 *
 * What it leaves out: the channel (it only raises fences early), tags (as clear: by born), expiry, eviction,
 * signatures, more than two epochs.  What stands beside it and includes it puts processes together; tests/model/run
 * says with what sizes, and which BREAK_ takes a guard away that must be missed.  Some guards stand behind others and
 * are not missed alone (the epoch written last, behind the proof's tag; no proof while the outbox waits, behind
 * `pending`).
 *
 * What this model found, before anything else did: an answer with a proof of its own was believed on a page that had
 * just adopted an epoch (BREAK_SETTLED), and a change was let go of that was confirmed in an epoch that had just ended
 * (BREAK_LET_GO).  tests/race/failover_test.c and tests/unit/outbox_test.c hold the library to it.
 */

#ifndef HOSTS
#define HOSTS 1
#endif
#define NONE  9   /* no value */
#define START 8   /* where the second epoch's positions begin: above all of the first's */
#define ON(h, k) ((h) * 2 + (k))
#ifdef ONE_SLOT
#define SLOT(h, k) ((h) * 2)
#else
#define SLOT(h, k) ((h) * 2 + (k))
#endif
#define CONF(e, k, w) ((((e) - 1) * 2 + (k)) * 3 + (w))

/* ---- the world ---- */

byte db[2];      /* the database: a row's version, by key */
byte now = 1;    /* the order of things */
byte dead = 0;   /* proofs asked before are beyond the bound by now */
byte conf[12];   /* ghost: when the change that voids all below w was confirmed in an epoch; 0: it was not */
byte own[4];     /* ghost: no process of the host may get less (P3) */
byte strong[2];  /* ghost: nobody may get less (P4) */
byte acked[2];   /* ghost: the newest version that any master has confirmed a change for */
bit passed;      /* the guards' deadline */
byte kept[2];    /* ghost: written down in the outbox, so not to be lost (P5) */

/* ---- Redis: server 0, and the replica that will be promoted ---- */

byte s_epoch[2] = 1;
byte s_pos[2] = 1;
byte s_clear[2] = 1;
byte s_val[4], s_born[4], s_ticket[4], s_ticket_epoch[4], s_guard[4];
byte s_log[16];          /* by position: which keys, as bits; positions never mean two things */
byte s_trimmed = 0;      /* the log begins above */
#define GONE   99 /* no entry in the registry */
#define MARKED 98 /* the host is about to be taken off, unless it reports */
byte s_hosts[4] = GONE;  /* what the registry says that a host has applied */
byte s_registry = 0;     /* the registry of the server asked was born at this tick */
byte next_ticket = 1;
bit failed = 0;

inline pick(s) {
  if
  :: !failed -> s = 0
  :: failed -> s = 1
#ifdef DEMOTED
  :: failed -> s = 0 /* cut off from the others, it does not know yet */
#endif
  fi
}

/* What every script does first: the server did not write this head, so the next epoch begins. */
inline rotate(s) {
#ifndef BREAK_ROTATE
  if
  :: s == 1 && s_epoch[1] == 1 ->
     s_epoch[1] = 2;
     s_pos[1] = START;
     s_clear[1] = s_pos[1];
     s_hosts[2] = GONE; s_hosts[3] = GONE; /* the registry is drawn anew */
     now++; s_registry = now
  :: else
  fi
#else
  skip
#endif
}

/* One change of key k; w: the version committed, 0: none. */
inline change(s, k, w) {
  rotate(s);
  s_pos[s]++;
  s_log[s_pos[s]] = 1 << k;
  s_val[ON(s, k)] = NONE;
  s_born[ON(s, k)] = s_pos[s];
#ifndef BREAK_TICKET
  s_ticket[ON(s, k)] = 0;
#endif
  now++;
  if :: w > acked[k] -> acked[k] = w :: else fi;
  if
  :: w > 0 && conf[CONF(s_epoch[s], k, w)] == 0 -> conf[CONF(s_epoch[s], k, w)] = now
  :: else
  fi
}

/* Asynchronous replication stops at some moment (reduced: at the start, so that all is lost); later the replica is
 * promoted. */
inline copy() {
  d_step {
    s_pos[1] = s_pos[0]; s_clear[1] = s_clear[0];
    s_val[2] = s_val[0]; s_val[3] = s_val[1]; s_born[2] = s_born[0]; s_born[3] = s_born[1];
    s_ticket[2] = s_ticket[0]; s_ticket[3] = s_ticket[1]; s_ticket_epoch[2] = s_ticket_epoch[0];
    s_ticket_epoch[3] = s_ticket_epoch[1]; s_guard[2] = s_guard[0]; s_guard[3] = s_guard[1];
    s_hosts[2] = s_hosts[0]; s_hosts[3] = s_hosts[1]
  }
}
proctype Failover() {
#ifdef COPIES
  copy();
#endif
  failed = 1
}

/* ---- the page ---- */

byte h_epoch[HOSTS] = 1;
byte h_floor[HOSTS] = 0;
byte h_clear[HOSTS] = 1;
byte h_applied[HOSTS] = 1;
byte h_pos[HOSTS] = 1;
byte h_tag[HOSTS] = 1;    /* proven: the epoch it is for, and when the question was sent */
byte h_proven[HOSTS] = 1;
byte h_fence[4];
bit h_recent[HOSTS];      /* confirmed lately, to be sent again after a rotation */
/* the outbox (of key 0): slot 0 is what a process of the host changes; each reporter has one for what it sends again in
 * each epoch, since in the page there is always another */
#define FREE    0
#define SENDING 1
#define ORPHAN  2 /* SENDING by a process that is dead */
#define QUEUED  3
byte h_box[10];
#define BOX(h, j) ((h) * 5 + (j))
#define WAITS(h, j) (h_box[BOX(h, j)] >= ORPHAN)
#define PENDING(h, k) ((k) == 0 && (h_box[BOX(h, 0)] != FREE || h_box[BOX(h, 1)] != FREE || \
    h_box[BOX(h, 2)] != FREE || h_box[BOX(h, 3)] != FREE || h_box[BOX(h, 4)] != FREE))
#define BUSY(h) (WAITS(h, 0) || WAITS(h, 1) || WAITS(h, 2) || WAITS(h, 3) || WAITS(h, 4))
/* the tier's records */
byte t_val[4] = NONE;
byte t_asof[4], t_born[4], t_epoch[4];

inline raise2(word, value, word2, value2) {
  d_step { if :: word < value -> word = value :: else fi; if :: word2 < value2 -> word2 = value2 :: else fi }
}
inline raise(word, value) { d_step { if :: word < value -> word = value :: else fi } }

/* ---- judging ---- */

#define VOIDED(e, k, v, t) \
  ((v < 1 && conf[CONF(e, k, 1)] != 0 && conf[CONF(e, k, 1)] <= t) || \
   (v < 2 && conf[CONF(e, k, 2)] != 0 && conf[CONF(e, k, 2)] <= t))

/* servable(): the copy {v, a, b, e} is behind us; `proof` is the answer's own, 0: none.  Sets `good`. */
inline judge(h, k, v, a, b, e, proof) {
#ifdef BREAK_AFTER
  good = a >= h_fence[SLOT(h, k)] && a >= h_floor[h];
#endif
  d_step { jt = h_tag[h]; jp = h_proven[h] }
  d_step {
    je = h_epoch[h];
#ifdef BREAK_TAG
    if :: proof > jp -> jp = proof :: else fi;
#else
    if :: jt != je -> jp = 0 :: else fi;
    if :: proof > jp -> jp = proof :: else fi;
#endif
#ifdef BREAK_AFTER
    good = good && e == je && jp > 0
#else
    good = v != NONE && e == je && jp > 0
#endif
  }
  if
  :: good ->
#ifndef BREAK_FLOOR
     good = good && a >= h_floor[h];
#endif
#ifdef BREAK_PENDING_LAST
     good = good && a >= h_fence[SLOT(h, k)];
     good = good && !PENDING(h, k);
#else
#ifndef BREAK_PENDING
     good = good && !PENDING(h, k);
#endif
#ifndef BREAK_FENCE
#ifndef BREAK_AFTER
     good = good && a >= h_fence[SLOT(h, k)];
#endif
#endif
#endif
     good = good && b >= h_clear[h];
     /* the clock, and the answer */
     d_step {
       if
       :: good && jp >= dead ->
          p1_bound = !VOIDED(je, k, v, jp);
          p3_own = v >= least;
          p4_strong = v >= most;
          assert(p1_bound);
          assert(p3_own);
          assert(p4_strong)
       :: else
       fi
     }
  :: else
  fi
}
hidden byte p1_bound, p2_filled, p3_own, p4_strong, p5_kept;
#define JUDGING byte jt, jp, je, least, most; bit good
#define LOOKED(h, k) least = own[ON(h, k)]; most = strong[k]

/* A get that the tier answers.  Once: it may begin at any moment. */
proctype Reader(byte h) {
  byte v, a, b, e, k; JUDGING;
#ifdef TWO
  if :: k = 0 :: k = 1 fi;
#endif
  d_step { LOOKED(h, k); v = t_val[ON(h, k)]; a = t_asof[ON(h, k)]; b = t_born[ON(h, k)]; e = t_epoch[ON(h, k)] }
  if
  :: v != NONE -> judge(h, k, v, a, b, e, 0)
  :: else
  fi;
  d_step { v = 0; a = 0; b = 0; e = 0; k = 0; jt = 0; jp = 0; je = 0; good = 0; least = 0; most = 0 }
}

inline to_tier(h, k, v, a, b, e) {
  d_step {
    if
    :: t_val[ON(h, k)] == NONE || a >= t_asof[ON(h, k)] ->
       t_val[ON(h, k)] = v; t_asof[ON(h, k)] = a; t_born[ON(h, k)] = b; t_epoch[ON(h, k)] = e
    :: else
    fi
  }
}

/* store_fetch without a look: the page's proof is young, MGET, into the tier at any time later. */
proctype Fetcher(byte h) {
  byte v, a, b, e, s, k;
#ifdef TWO
  if :: k = 0 :: k = 1 fi;
#endif
  atomic {
    pick(s);
    v = s_val[ON(s, k)]; a = s_pos[s]; b = s_born[ON(s, k)]; e = s_epoch[s];
    if :: b < s_clear[s] -> v = NONE :: else fi;
    s = 0
  }
#ifdef BREAK_ASOF
  a = h_applied[h];
#endif
  if
  :: v != NONE -> to_tier(h, k, v, a, b, e)
  :: else
  fi;
  d_step { v = 0; a = 0; b = 0; e = 0; k = 0 }
}

/* ---- reporting ---- */

inline adopt(h, from, to, p, c) {
  if
  :: h_epoch[h] == from ->
     d_step { h_tag[h] = to; h_proven[h] = 0 }
#ifndef BREAK_ADOPT_FLOOR
#ifdef FULL
     raise(h_floor[h], p);
     raise(h_clear[h], c);
#else
     raise2(h_floor[h], p, h_clear[h], c);
#endif
#endif
#ifdef FULL
     raise(h_applied[h], p);
     raise(h_pos[h], p);
#else
     raise2(h_applied[h], p, h_pos[h], p);
#endif
     d_step { if :: h_epoch[h] == from -> h_epoch[h] = to :: else fi }
  :: else
  fi
}

/* Remember, look whether the epoch is still the one it was confirmed in, and only then free: an adopter that comes
 * later reads the memory later. */
inline let_go(h, j, e) {
#ifdef BREAK_REMEMBER
  skip;
#else
  h_recent[h] = 1;
#endif
#ifdef BREAK_LET_GO
  h_box[BOX(h, j)] = FREE
#else
  if
  :: h_epoch[h] == e -> h_box[BOX(h, j)] = FREE
  :: else -> h_box[BOX(h, j)] = QUEUED
  fi
#endif
}

/* Send one of what waits, and let go of it when it is confirmed. */
inline resend(h, j) {
  atomic {
    if
    :: WAITS(h, 0) -> j = 0
    :: WAITS(h, 1) -> j = 1
    :: WAITS(h, 2) -> j = 2
    :: WAITS(h, 3) -> j = 3
    :: WAITS(h, 4) -> j = 4
    :: else -> j = 5
    fi;
    if :: j < 5 -> h_box[BOX(h, j)] = SENDING :: else fi
  }
  if
  :: j < 5 ->
     atomic { pick(s); change(s, 0, db[0]); e2 = s_epoch[s]; p = s_pos[s]; s = 0 }
     if
     :: h_epoch[h] == e2 ->
        raise(h_pos[h], p);
        raise(h_fence[SLOT(h, 0)], p);
        let_go(h, j, e2)
     :: else -> h_box[BOX(h, j)] = QUEUED
     fi
  :: else
  fi;
  d_step { e2 = 0; p = 0; j = 0 }
}

proctype Reporter(byte h; byte i; byte renewals) {
#ifdef OUTBOX
  byte j;
#endif
  byte n, rot, t0, pe, pa, pp, s, qe, qp, qc, qt, p, e2, resent, sv, st;
  bit same, unproven;
  do
  :: n < renewals ->
     n++; same = 0;
     atomic {
       d_step { rot = h_tag[h]; t0 = now; pe = h_epoch[h]; pa = h_applied[h]; pp = h_pos[h] }
#ifdef FULL /* what is read, and when it arrives there, are two moments */
     }
     atomic {
#endif
       pick(s); rotate(s); qe = s_epoch[s]; qp = s_pos[s]; qc = s_clear[s]; qt = s_trimmed;
       if
       :: s_epoch[s] == pe && pa <= s_pos[s] -> s_hosts[ON(s, h)] = pa
       :: s_epoch[s] == pe && pa > s_pos[s] -> s_hosts[ON(s, h)] = s_pos[s]
       :: else -> s_hosts[ON(s, h)] = 0
       fi;
       s = 0
     }
#ifdef BREAK_SEND_TIME
     t0 = now;
#endif
     if
     :: h_epoch[h] != pe -> skip
     :: h_epoch[h] == pe && qe == pe -> same = qp >= pp && qp >= pa
     :: h_epoch[h] == pe && qe != pe && qp < pp -> skip
     :: h_epoch[h] == pe && qe != pe && qp >= pp -> adopt(h, pe, qe, qp, qc)
     fi;
     if
     :: same ->
#ifdef FULL
        raise(h_pos[h], qp);
        raise(h_clear[h], qc);
#else
        raise2(h_pos[h], qp, h_clear[h], qc);
#endif
        /* the log */
        p = h_applied[h];
        if
        :: p < qp && (p < qt || (qe == 2 && p < START)) -> /* entries are missing */
#ifndef BREAK_REPAIR
           raise(h_floor[h], qp);
#endif
           raise(h_applied[h], qp)
        :: else ->
           do
           :: p < qp ->
              p++;
#ifdef BREAK_ORDER
              raise(h_applied[h], p);
#endif
              d_step {
                if :: s_log[p] & 1 && h_fence[SLOT(h, 0)] < p -> h_fence[SLOT(h, 0)] = p :: else fi;
                if :: s_log[p] & 2 && h_fence[SLOT(h, 1)] < p -> h_fence[SLOT(h, 1)] = p :: else fi
              }
              raise(h_applied[h], p)
           :: else -> break
           od;
           skip
        fi;
        /* settle */
#ifndef BREAK_RESEND
        d_step { unproven = (h_tag[h] != h_epoch[h] || h_proven[h] == 0) && resent != qe }
        if
        :: unproven ->
           resent = qe;
           d_step { if :: h_recent[h] -> h_box[BOX(h, 2 * i + qe)] = QUEUED :: else fi }
        :: else
        fi;
#endif
        p = 0;
        if
        :: BUSY(h) -> skip
        :: else ->
           d_step { st = h_tag[h]; sv = h_proven[h] }
           if
#ifdef BREAK_TAG
           :: h_epoch[h] == qe && h_applied[h] >= qp ->
#else
           :: st == rot && h_epoch[h] == qe && h_applied[h] >= qp ->
#endif
#ifdef BREAK_PROVE
              h_proven[h] = t0; h_tag[h] = qe
#else
              d_step {
                if
                :: h_tag[h] == st && h_proven[h] == sv && !(st == qe && sv >= t0) -> h_tag[h] = qe; h_proven[h] = t0
                :: else
                fi
              }
#endif
           :: else
           fi
        fi;
     :: else
     fi;
     d_step { rot = 0; t0 = 0; pe = 0; pa = 0; pp = 0; qe = 0; qp = 0; qc = 0; qt = 0; st = 0; sv = 0; same = 0;
              unproven = 0; p = 0 }
#ifdef OUTBOX
     resend(h, j)
#endif
  :: else -> break
  od
}

/* ---- asking Redis ---- */

/* store_fetch with a look at the master, or the ticket script that finds a record: an answer with a proof of its own.
 * That counts only on a page that has been proven in this epoch: what is sent again after a rotation comes first. */
proctype Asker(byte h) {
  byte v, a, b, e, s, t, k, pe, pp, pa, qe, qp, qc; bit settled; JUDGING;
  d_step { LOOKED(h, k) }
  t = now;
  d_step { pe = h_epoch[h]; pa = h_applied[h]; pp = h_pos[h] }
  if
  :: /* a look, then MGET */
     atomic { pick(s); rotate(s); qe = s_epoch[s]; qp = s_pos[s]; qc = s_clear[s]; s = 0 }
     if
     :: h_epoch[h] == pe && qe == pe && qp >= pp && qp >= pa -> raise(h_clear[h], qc)
     :: h_epoch[h] == pe && qe != pe && qp >= pp -> adopt(h, pe, qe, qp, qc)
     :: else -> t = 0
     fi;
     d_step { pe = h_epoch[h]; pa = h_applied[h]; pp = h_pos[h];
              settled = h_tag[h] == h_epoch[h] && h_proven[h] != 0 }
     atomic {
       pick(s); v = s_val[ON(s, k)]; a = s_pos[s]; b = s_born[ON(s, k)]; e = s_epoch[s];
       if :: b < s_clear[s] || e != pe || a < pp || a < pa || qe != e || a < qp || t == 0 -> v = NONE :: else fi;
       s = 0
     }
  :: /* the ticket script */
     settled = h_tag[h] == pe && h_proven[h] != 0;
     atomic {
       pick(s); rotate(s); v = s_val[ON(s, k)]; a = s_pos[s]; b = s_born[ON(s, k)]; e = s_epoch[s];
       if :: b < s_clear[s] || e != pe || a < pp -> v = NONE :: else fi;
       s = 0
     }
  fi;
#ifndef BREAK_SETTLED
  if :: !settled -> t = 0 :: else fi;
#endif
  if
  :: v != NONE -> judge(h, k, v, a, b, e, t)
  :: else
  fi;
  d_step { v = 0; a = 0; b = 0; e = 0; t = 0; pe = 0; pa = 0; pp = 0; qe = 0; qp = 0; qc = 0; settled = 0;
           jt = 0; jp = 0; je = 0; good = 0; least = 0; most = 0 }
}

/* get_or_load: a ticket, the database, the fill, the tier.  A ticket may end at any time: another takes it over. */
proctype Loader(byte h) {
  byte v, a, b, e, s, t, k;
  atomic {
    pick(s); rotate(s);
    if
    :: s_val[ON(s, k)] != NONE && s_born[ON(s, k)] >= s_clear[s] -> skip
#ifndef BREAK_GUARD
    :: !(s_val[ON(s, k)] != NONE && s_born[ON(s, k)] >= s_clear[s]) && s_guard[ON(s, k)] != 0 -> skip
#endif
    :: else ->
       t = next_ticket; next_ticket++; s_val[ON(s, k)] = NONE; s_ticket[ON(s, k)] = t;
       s_ticket_epoch[ON(s, k)] = s_epoch[s]
    fi;
    s = 0
  }
  if
  :: t != 0 ->
     v = db[k];
     atomic {
       pick(s); rotate(s);
       if
#ifdef BREAK_TICKET_EPOCH
       :: s_ticket[ON(s, k)] == t ->
#else
       :: s_ticket[ON(s, k)] == t && s_ticket_epoch[ON(s, k)] == s_epoch[s] ->
#endif
#ifndef DEMOTED /* what another master confirms meanwhile, this one cannot know */
          p2_filled = v >= acked[k];
          assert(p2_filled);
#endif
          s_val[ON(s, k)] = v; s_born[ON(s, k)] = s_pos[s]; s_ticket[ON(s, k)] = 0;
          e = s_epoch[s]; a = s_pos[s]; b = a
       :: else -> t = 0
       fi;
       s = 0
     }
     if
     :: t != 0 && h < HOSTS -> to_tier(h, k, v, a, b, e)
     :: else
     fi
  :: else
  fi;
  d_step { v = 0; a = 0; b = 0; e = 0; t = 0 }
}

/* Somebody loads and fills in the new epoch. */
proctype Refill() {
  atomic { failed && s_epoch[1] == 2 -> s_val[2] = db[0]; s_born[2] = s_pos[1] }
}

/* ---- changing ---- */

/* A host whose page is not looked at: commit, invalidate; confirmed lately is sent again in a new epoch. */
proctype Elsewhere(byte k; bit again) {
  byte s, w;
  d_step { db[k]++; w = db[k] }
  atomic { pick(s); change(s, k, w); s = 0 }
  if
  :: again -> atomic { failed -> s = 1; change(s, k, w); s = 0 }
  :: else
  fi;
  w = 0
}

inline killed(h) { d_step { if :: h_box[BOX(h, 0)] == SENDING -> h_box[BOX(h, 0)] = ORPHAN :: else fi } }

/* A process of this host, through the outbox; it may be killed at any step. */
proctype Writer(byte h) {
  byte s, w, p, e2, k;
  d_step { db[k]++; w = db[k] }
#ifdef BREAK_WRITE_DOWN
  kept[k] = w;
#else
  atomic { h_box[BOX(h, 0)] = SENDING; kept[k] = w }
#endif
  if
  :: atomic { pick(s); change(s, k, w); e2 = s_epoch[s]; p = s_pos[s]; s = 0 }
     if
     :: h_epoch[h] == e2 ->
        raise(h_pos[h], p);
#ifndef BREAK_OWN_FENCE
        raise(h_fence[SLOT(h, k)], p);
#endif
#ifdef BREAK_LET_GO
        h_recent[h] = 1;
        h_box[BOX(h, 0)] = FREE;
        if
        :: h_epoch[h] != e2 -> if :: h_box[BOX(h, 0)] = QUEUED; own[ON(h, k)] = w :: skip /* killed */ fi
        :: else -> own[ON(h, k)] = w
        fi
#else
        let_go(h, 0, e2);
        own[ON(h, k)] = w
#endif
     :: else -> atomic { h_box[BOX(h, 0)] = QUEUED; own[ON(h, k)] = w }
     fi
#ifdef QUEUE
  :: atomic { h_box[BOX(h, 0)] = QUEUED; own[ON(h, k)] = w } /* no answer in time */
#endif
#ifdef KILL
  :: killed(h)
  :: atomic { pick(s); change(s, k, w); s = 0 }; killed(h)
#endif
  fi;
  d_step { p = 0; e2 = 0; w = 0 }
}

/* Host 0 waits, whose own fence is up: the others of the registry have applied p, or the bound has passed since the
 * answer (tick t). */
inline wait_all(p, e, t) {
  if
  :: raise(dead, t)
  :: atomic {
       pick(s);
       s_epoch[s] == e && s_hosts[ON(s, 1)] != MARKED && s_hosts[ON(s, 1)] >= p ->
#ifndef BREAK_REGISTRY
       /* this registry has been known for a bound: who proved anything without it is over */
       if :: s == 1 && dead < s_registry -> dead = s_registry :: else fi;
#endif
       s = 0
     }
#ifdef BREAK_WAIT
  :: skip
#endif
  fi
}

/* A guarded database write.  `waits`: for all hosts, before the commit. */
proctype Guarded(byte k; byte id; bit waits) {
  byte s, w, p, e2, t; bit held, dies;
  atomic { pick(s); change(s, k, 0); s_guard[ON(s, k)] = s_guard[ON(s, k)] | id; e2 = s_epoch[s]; p = s_pos[s]; t = now;
           s = 0 }
  if
  :: waits -> raise(h_fence[SLOT(0, k)], p); wait_all(p, e2, t)
  :: else
  fi;
#ifdef DIES
  if :: dies = 1 :: skip fi;
#endif
  if
#ifdef BREAK_TRANSACTION
  :: dies -> d_step { db[k]++; w = db[k] } /* the database does not end it before the deadline */
#else
  :: dies -> atomic { if :: !passed -> db[k]++; w = db[k] :: else fi }
#endif
  :: !dies -> atomic { db[k]++; w = db[k]; if :: waits -> strong[k] = w :: else fi };
#ifdef BREAK_END
     atomic { pick(s); s_guard[ON(s, k)] = s_guard[ON(s, k)] & ~id; s = 0 }
#else
     atomic { pick(s); change(s, k, w);
#ifdef BREAK_SET
              s_guard[ON(s, k)] = 0;
#else
              s_guard[ON(s, k)] = s_guard[ON(s, k)] & ~id;
#endif
              s = 0 }
#endif
  fi;
  d_step { w = 0; p = 0; e2 = 0; t = 0; held = 0; dies = 0 }
}

/* The guards' deadlines pass. */
proctype Deadline(byte k) {
  d_step { passed = 1; s_guard[ON(0, k)] = 0; s_guard[ON(1, k)] = 0 }
}

/* A strong write. */
proctype Strong(byte k) {
  byte s, w, p, e2, t;
  d_step { db[k]++; w = db[k] }
  atomic { pick(s); change(s, k, w); e2 = s_epoch[s]; p = s_pos[s]; t = now; s = 0 }
  raise(h_fence[SLOT(0, k)], p);
  wait_all(p, e2, t);
  strong[k] = w;
  d_step { w = 0; p = 0; e2 = 0; t = 0 }
}

/* The last process of a host goes, as far as it knows: a mark in its place, no proof any more, then off, unless somebody
 * has reported since. */
proctype Leaver(byte h) {
  byte s;
#ifndef BREAK_MARK
  atomic { pick(s); s_hosts[ON(s, h)] = MARKED; s = 0 }
#endif
#ifndef BREAK_FORGET
  d_step { h_tag[h] = 0; h_proven[h] = 0 }
#endif
  atomic {
    pick(s);
#ifndef BREAK_MARK
    if :: s_hosts[ON(s, h)] == MARKED -> s_hosts[ON(s, h)] = GONE :: else fi;
#else
    s_hosts[ON(s, h)] = GONE;
#endif
    s = 0
  }
}

proctype Trim() { d_step { s_trimmed = s_pos[0] } }

/* ---- when all has come to rest ---- */

#define LIVE(s, k) (s_val[ON(s, k)] != NONE && s_born[ON(s, k)] >= s_clear[s])
proctype Rest() {
  timeout ->
  if
  :: !failed && LIVE(0, 0) && s_guard[0] == 0 -> p2_filled = s_val[0] == db[0]; assert(p2_filled)
#ifdef RESENT
  :: failed && LIVE(1, 0) && s_epoch[1] == 2 && s_guard[2] == 0 -> p2_filled = s_val[2] == db[0]; assert(p2_filled)
#endif
  :: else
  fi;
  /* kept: P5.  A page that is proven in the epoch has nothing that is still to be sent to it */
  if
  :: failed && h_epoch[0] == 2 && h_tag[0] == 2 && h_proven[0] != 0 && !PENDING(0, 0) &&
     LIVE(1, 0) && s_epoch[1] == 2 -> p5_kept = s_val[2] >= kept[0]; assert(p5_kept)
  :: else
  fi
}

inline start() {
  s_val[0] = 0; s_val[1] = 0;
  s_born[0] = 1; s_born[1] = 1;
  s_hosts[0] = 1;
  if :: HOSTS > 1 -> s_hosts[1] = 1 :: else fi;
  copy()
}
