"""What the views of a site do, each step reading what the one before wrote. Fails by assertion."""

import time
from concurrent.futures import ThreadPoolExecutor

from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management.base import BaseCommand
from django.db import connection, transaction
from django.db.models import F, Sum
from django.test import Client

from shop.models import Order, Product


class Command(BaseCommand):
    """`manage.py visit`"""

    def handle(self, *_, **__):
        for step in (create, change, transactions, lock, iterate, session, admin_site, many_visitors):
            step()
            self.stdout.write(f"{step.__name__} ok")


def create():
    for number in range(20):
        made = Product.objects.create(name=f"made {number}", price=number)
        assert Product.objects.get(pk=made.pk).name == f"made {number}"
        assert Product.objects.filter(name__startswith="made").count() == number + 1
    again, was_created = Product.objects.get_or_create(name="made 3", defaults={"price": 1})
    assert not was_created and again.price == 3
    Product.objects.bulk_create([Product(name=f"bulk {number}", price=1) for number in range(500)])
    assert Product.objects.filter(name__startswith="bulk").count() == 500


def change():
    product = Product.objects.get(name="made 5")
    for number in range(10):
        Product.objects.filter(pk=product.pk).update(price=F("price") + 1)
        product.refresh_from_db()
        assert product.price == 6 + number
    Product.objects.filter(name__startswith="bulk").delete()
    assert not Product.objects.filter(name__startswith="bulk").exists()


def transactions():
    product = Product.objects.get(name="made 1")
    try:
        with transaction.atomic():
            Order.objects.create(product=product, quantity=1)
            assert product.orders.count() == 1
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert product.orders.count() == 0
    with transaction.atomic():
        Order.objects.create(product=product, quantity=2)
        try:
            with transaction.atomic():
                Order.objects.create(product=product, quantity=100)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert product.orders.aggregate(total=Sum("quantity"))["total"] == 2


def lock():
    with transaction.atomic():
        order = Order.objects.select_for_update().get(quantity=2)
        order.paid = True
        order.save()
    assert Order.objects.get(quantity=2).paid


def iterate():
    assert sum(1 for _ in Product.objects.order_by("id").iterator(chunk_size=5)) == Product.objects.count()
    with transaction.atomic():
        assert sum(1 for _ in Product.objects.order_by("id").iterator(chunk_size=5)) == Product.objects.count()
    with connection.cursor() as cursor:
        cursor.execute("show timezone")
        assert cursor.fetchone() == ("UTC",), "Django works in UTC"


def session():
    store = SessionStore()
    store["basket"] = [1, 2, 3]
    store.save()
    assert SessionStore(session_key=store.session_key)["basket"] == [1, 2, 3]


def admin_site():
    User.objects.create_superuser("boss", password="secret")
    client = Client(SERVER_NAME="localhost")
    assert client.login(username="boss", password="secret")
    assert client.session["_auth_user_id"] == str(User.objects.get(username="boss").pk)


def one_visitor(number):
    try:
        product = Product.objects.create(name=f"visitor {number}", price=1)
        for quantity in range(1, 6):
            Order.objects.create(product=product, quantity=quantity)
            assert product.orders.count() == quantity, "a view does not see its own order"
    finally:
        connection.close()


def many_visitors():
    with ThreadPoolExecutor(12) as visitors:
        list(visitors.map(one_visitor, range(36)))
    orders, end = Order.objects.filter(product__name__startswith="visitor"), time.monotonic() + 20
    while orders.count() < 36 * 5 and time.monotonic() < end:
        time.sleep(0.1)  # other connections wrote them, a replica may show them later
    assert orders.count() == 36 * 5
