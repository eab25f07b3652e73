"""What is done with banks of answers: tables read, contents counted, others' files imported.

`audit.bank` holds a bank itself.
"""
