"""Products, and orders of them."""

from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100, unique=True)
    price = models.DecimalField(max_digits=10, decimal_places=2)
    tags = models.JSONField(default=list)


class Order(models.Model):
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    quantity = models.PositiveIntegerField()
    placed = models.DateTimeField(auto_now_add=True)
    paid = models.BooleanField(default=False)
