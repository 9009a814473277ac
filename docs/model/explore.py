"""Breadth-first search through all states of a model, for each set of its rules: prints a line for each set, and the shortest history to a loss."""
from collections import deque
def search(initial,steps,lost,on):
    seen={initial:None};q=deque([initial])
    while q:
        s=q.popleft()
        if lost(s):
            p=[];t=s
            while seen[t]: t,l=seen[t];p.append(l)
            return len(seen),lost(s),p[::-1]
        for l,t in steps(s,on):
            if t not in seen: seen[t]=(s,l);q.append(t)
    return len(seen),"",[]
def explore(initial,steps,lost,*sets):
    for on in sets:
        n,w,p=search(initial,steps,lost,on);print(sorted(on),n,"VIOLATION "+w if w else "ok")
        for l in p: print("   ",l)
