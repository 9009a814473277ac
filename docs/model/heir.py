#!/usr/bin/env python3
"""An heir B takes slot X of ended session A for live session C. The span in C's WAL begins where that was at the heartbeat that B has read, however old;
C appends records of X as soon as it knows, other slots' at any time; it checkpoints and trims its WAL. Then C is fenced and sealed, and D takes X: it replays
max(span, trim+1)..seal, on top of C's newest checkpoint. Rules: 'bound-first': C takes its newest checkpoint's position for the bound of a trim before
it reads the slots; 'end-later': D takes the slot only when C is sealed."""
from collections import namedtuple
from explore import explore
S=namedtuple("S","wal beat ckpt cov trim x frm knows b t keep fenced seal lost")  # wal: "o" other slots', "x" X's; x: owner of X; b: heartbeat that B read; t: C's trim under way
I=S("",1,0,0,0,"A",0,False,0,"",0,False,0,"")
def steps(s,on):
    if not s.seal and len(s.wal)<4:
        yield f"C appends at {len(s.wal)+1}",s._replace(wal=s.wal+"o")
        if s.knows: yield f"C appends X's at {len(s.wal)+1}, acknowledged",s._replace(wal=s.wal+"x")
    if s.beat<=len(s.wal) and not s.fenced: yield f"C's heartbeat: next is {len(s.wal)+1}",s._replace(beat=len(s.wal)+1)
    if not s.knows and s.x=="C" and not s.seal: yield "C hears that X is its own",s._replace(knows=True)
    if not s.b: yield f"B reads the heartbeat: {s.beat}",s._replace(b=s.beat)
    if s.b and s.x=="A" and not s.fenced: yield f"B gives X to C, from {s.b}",s._replace(x="C",frm=s.b)
    n=len(s.wal)
    if not s.fenced and s.ckpt<n:
        if s.knows: yield f"C checkpoints to {n}, X as well",s._replace(ckpt=n,cov=n,frm=n+1)
        else: yield f"C checkpoints to {n} what it knows of",s._replace(ckpt=n)
    if not s.t: yield "C reads the slots, to trim",s._replace(t="read",keep=min(s.frm if s.x=="C" else 9,s.ckpt+1 if "bound-first" in on else 9))
    if s.t=="read":
        keep=s.keep if "bound-first" in on else min(s.keep,n+1)
        if not s.fenced: yield f"C records trim {keep-1}, deletes so far",s._replace(t="",keep=0,trim=max(s.trim,keep-1))
        yield "C gives up the trim",s._replace(t="",keep=0)
    if not s.fenced: yield "C is fenced",s._replace(fenced=True)
    if s.fenced and not s.seal: yield f"C is sealed at {n+1}",s._replace(seal=n+1)
    if s.x=="C" and s.fenced and (s.seal or "end-later" not in on):
        end=s.seal or n+1
        lost=[p+1 for p,r in enumerate(s.wal) if r=="x" and p+1>s.cov and not max(s.frm,s.trim+1)<=p+1<end]
        yield f"D takes X, replays {max(s.frm,s.trim+1)}..{end-1}",s._replace(x="D",cov=s.cov if lost else n,lost=f"X's records at {lost} were acknowledged" if lost else "")
    if s.x=="D" and s.knows and s.wal[s.cov:].count("x"): yield "",s._replace(lost="C acknowledged X's records when they were D's")
explore(I,steps,lambda s:s.lost,{"end-later"},{"bound-first"},{"bound-first","end-later"})
