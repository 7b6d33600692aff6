"""Who is told what over OSC: known clients and reply ports, with a clock of the test."""

from rfm_live.server.osc_clients import MAX_CLIENTS, SILENCE_SECONDS, OscClients


def test_clients_are_forgotten_after_ten_silent_minutes_and_their_number_is_bounded() -> None:
    now = [0.0]
    clients = OscClients(None, lambda: now[0])
    clients.heard(("a", 1))
    now[0] = SILENCE_SECONDS
    clients.heard(("b", 2))
    assert clients.feedback_targets() == [("a", 1), ("b", 2)]
    now[0] += 1
    assert clients.feedback_targets() == [("b", 2)]
    for port in range(100, 100 + MAX_CLIENTS):
        clients.heard(("c", port))
    assert ("b", 2) not in clients.feedback_targets() and len(clients.feedback_targets()) == MAX_CLIENTS


def test_the_reply_port_of_a_machine_belongs_to_its_only_client_and_rests_while_nobody_listens() -> None:
    clients = OscClients(9001, lambda: 0.0)
    clients.heard(("a", 1))
    assert clients.feedback_targets(("a", 1)) == []
    assert clients.feedback_targets() == [("a", 1), ("a", 9001)]
    clients.heard(("a", 2))
    assert clients.feedback_targets(("a", 1)) == [("a", 2), ("a", 9001)]
    clients.forget(("a", 9001))
    assert clients.feedback_targets(("a", 1)) == [("a", 2)]
    assert clients.answer_targets(("a", 1)) == [("a", 1)]
    clients.heard(("a", 1))
    assert clients.answer_targets(("a", 1)) == [("a", 1), ("a", 9001)]
