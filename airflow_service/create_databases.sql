-- Run once by the Postgres image, which itself makes the database `airflow`.
create database recsys;
