"""What a KTLS socket is and does with messages: its state, and its two halves.

Begin with state.py, then the halves: rx.py (on rxqueue.py) and tx.py, whose lives are tables in
states.py. receiving.py and sending.py are recvmsg(2) and sendmsg(2) as each kernel has them. It may
touch engines and sessions, and knows no socket option.
"""
