"""What to do about each error. The errors themselves, and what they mean, are read from errors.py; a test asks that
each has a remedy here and that no remedy is left over."""

REMEDIES = {
    "MessagingError": "Catch this one where every failure is treated alike; look at `maybe_sent` before sending again.",
    "ConfigurationError": "Mend the setting, or the use, that the text names. TLS files are read when the first "
    "connection is made.",
    "Unavailable": "Answer 503 and let the client come again, or keep the message elsewhere. Raised itself when "
    "`max_queued` or `max_queued_bytes` is reached: the broker is slower than what is published.",
    "ConnectFailed": "Read the cause in the text. With `is_permanent` mend credentials, virtual host, TLS files or "
    "port; otherwise the transport goes on trying by itself. `wsgi-messaging check URL` shows which step fails.",
    "ConnectionLost": "You asked for it with `retry=0`. Decide by the message: sending again may deliver it twice "
    "where `maybe_sent` is True.",
    "BrokerBlocked": "Free memory or disk on the broker (`rabbitmqctl status` names the alarm). Deliveries go on "
    "meanwhile.",
    "NotDelivered": "Catch this one for what the message, or its route, is to blame for.",
    "Unroutable": "Declare and bind the queue (`Transport.declare`), mend exchange or routing key, or say "
    "`mandatory=False` where nobody need listen.",
    "Rejected": "Code 0: the queue is full (`x-overflow: reject-publish`) or could not store it. 404: the exchange "
    "does not exist. 403 and 406: permissions, or a property that the broker does not take.",
    "InvalidMessage": "Mend the body or the property that the text names. Nothing was sent.",
    "DeclarationRefused": "406: somebody declared it with other arguments; the text names both values. 403: the user "
    "may not configure it. 404: it is bound to what does not exist. 405: an exclusive queue of another connection.",
    "Expired": "Catch this one for every deadline that passed.",
    "ConnectTimeout": "As for `ConnectFailed`. What was to be published was not sent.",
    "ConfirmTimeout": "`maybe_sent` False: it did not leave this process. True: the broker may have it, so send it "
    "again only where a second copy does no harm, or with the same `message_id` to a receiver that looks at it.",
    "ReplyTimeout": "The method may have run, or may still. Ask the server what became of it, or call again where "
    "the method may run twice. For long methods raise `timeout` and set `call_monitor_timeout`.",
    "ReplyLost": "As for `ReplyTimeout`. Calls that are made from now on have another queue for their replies.",
    "RemoteError": "The method ran and raised. Its class name is `exc_type`; name the module in "
    "`allowed_remote_exmods` to get the exception itself.",
    "Closed": "Do not use a transport after `close()`; make another one. In an exit handler: it came too late.",
}
"""By the name of the class; in backticks what is code."""
